"""Classifies Chinese reviews, from 168 labelled ones.

python examples/quickstart.py
"""

from keras_ptuning import PromptClassifier, Template, datasets

# Shopping reviews, downloaded once. The labels are 0 (negative) and 1 (positive).
data = datasets.load_sentiment()
texts, labels = data["train"]
test_texts, test_labels = data["test"]

# The model fills in the mask: 不满意 (not satisfied) or 很满意 (very satisfied).
template = Template("[MASK]满意。{text}", {0: "不", 1: "很"}, "bert-small-zh")
classifier = PromptClassifier(template, verbose=0)
classifier.fit(texts[:168], labels[:168])

print("Accuracy:", classifier.score(test_texts[:500], test_labels[:500]))
print(classifier.predict(["房间很小，隔音也差。", "物流很快，包装也好。"]))
classifier.save("sentiment.keras")
