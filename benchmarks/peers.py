"""The same work with three libraries, each written as its users write it.

A peer builds a P-tuning model out of the folder of a checkpoint, and a classifier for direct
fine-tuning. It takes texts and labels, 0 or 1, as lists: what it does between them and the model,
such as tokenizing, padding and masking, belongs to the work.

Some also build a cloze model with a tuning method. All then take the same batch: the arrays that
`template.dataset` of this library makes, with the masks in the same places.
"""

import os
import time
from types import MappingProxyType

PROMPT, PREFIX, WORDS, MASK_RATE = 8, 20, ("不", "很"), 0.15
# What a tuning method trains, with the numbers of the papers, and of each library's defaults.
METHODS = {
    "prompt": f"{PROMPT} virtual tokens",
    "prefix": f"{PREFIX} keys and values in each block",
    "lora": "rank 8, query and value",
    "adapter": "Houlsby, size 48",
    "pfeiffer": "adapter of Pfeiffer, size 48",
    "all": "all weights",
}


def cloze_pattern(prompt=PROMPT):
    """The template: a mask with virtual tokens around it, and the text."""
    tokens = [f"[u{i + 1}]" for i in range(prompt)]
    half = prompt // 2
    return "".join([*tokens[:half], "[MASK]", *tokens[half:], "{text}"])


def peak_memory():
    """The greatest memory of the process so far, in GiB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if "VmHWM" in line) / 2**20


class Peer:
    """What is timed: `step`, `epoch`, `score`, `fine_tuning_step`, after `build`.

    Of a tuning method it is `method_steps`, after `build_method`: some steps with one batch, as the
    library's users run them. It returns `clock()` at the end of each.
    """

    needs = ()
    environment = MappingProxyType({})
    # The tuning methods it has, and what they need besides.
    methods, methods_need = (), ()

    def __init__(self, folder, maxlen, batch_size):
        self.folder = str(folder)
        # Of the whole sequence: [CLS], the prompt, the mask, the text, [SEP].
        self.maxlen = maxlen
        self.batch_size = batch_size

    def peak_memory(self):
        """The greatest memory of the process; of the GPU instead, if the peer uses one. In GiB."""
        taken = self.gpu_memory()
        return peak_memory() if taken is None else taken / 2**30

    def gpu_memory(self):
        return None


def pytorch_device():
    """The GPU, if there is one. JAX multiplies float32 as TF32 there, so PyTorch does too."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")
    return "cuda"


def pytorch_gpu_memory():
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def clock():
    """The seconds that passed, and those that all cores worked."""
    return time.perf_counter(), time.process_time()


class Bert4keras(Peer):
    """The construction of the articles: all rows of the table in the graph, all logits."""

    needs = ("bert4keras", "tf_keras", "tensorflow")
    environment = MappingProxyType({"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"})

    def build(self):
        import tensorflow as tf
        import tf_keras
        from bert4keras.layers import Embedding
        from bert4keras.models import BERT, build_transformer_model
        from bert4keras.tokenizers import Tokenizer

        self.tokenizer = Tokenizer(os.path.join(self.folder, "vocab.txt"), do_lower_case=True)
        to_id = self.tokenizer.token_to_id
        self.prompt_ids = [to_id(f"[unused{i + 1}]") for i in range(PROMPT)]
        self.mask_id, self.word_ids = to_id("[MASK]"), [to_id(word) for word in WORDS]
        rows = self.prompt_ids

        class MaskedEmbedding(Embedding):
            def table(self):
                mask = tf.scatter_nd([[i] for i in rows], [[1.0]] * PROMPT, (self.input_dim, 1))
                return self.embeddings * mask + tf.stop_gradient(self.embeddings) * (1 - mask)

            def call(self, inputs, mode="embedding"):
                if mode == "embedding":
                    return tf.gather(self.table(), tf.cast(inputs, "int32"))
                return tf.matmul(inputs, self.table(), transpose_b=True)

        class PtuningBERT(BERT):
            def apply(self, inputs=None, layer=None, arguments=None, **kwargs):
                if layer is Embedding and kwargs.get("name") == "Embedding-Token":
                    layer = MaskedEmbedding
                return super().apply(inputs, layer, arguments, **kwargs)

        def loss(targets, predicted):
            weights = tf.cast(targets > 0, "float32")
            losses = tf_keras.losses.sparse_categorical_crossentropy(targets, predicted)
            return tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)

        self.model = build_transformer_model(
            os.path.join(self.folder, "config.json"),
            os.path.join(self.folder, "bert_model.ckpt"),
            model=PtuningBERT,
            with_mlm=True,
        )
        # bert4keras loads weights into what trains.
        for layer in self.model.layers:
            layer.trainable = layer.name == "Embedding-Token"
        self.model.compile(tf_keras.optimizers.Adam(6e-4), loss)

    def batches(self, texts, labels=None):
        import numpy as np
        from bert4keras.snippets import sequence_padding

        order = np.arange(len(texts))
        if labels is not None:
            np.random.shuffle(order)
        for start in range(0, len(order), self.batch_size):
            all_ids, all_targets = [], []
            for i in order[start : start + self.batch_size]:
                ids, _ = self.tokenizer.encode(texts[i], maxlen=self.maxlen - PROMPT - 1)
                targets = [0] * len(ids)
                if labels is not None:
                    for place in range(1, len(ids) - 1):
                        if np.random.random() < MASK_RATE:
                            targets[place] = ids[place]
                            ids[place] = self.replacement(ids[place])
                half = PROMPT // 2
                front = [*self.prompt_ids[:half], self.mask_id, *self.prompt_ids[half:]]
                answer = 0 if labels is None else self.word_ids[labels[i]]
                answers = [0] * half + [answer] + [0] * half
                all_ids.append([ids[0], *front, *ids[1:]])
                all_targets.append([targets[0], *answers, *targets[1:]])
            padded = sequence_padding(all_ids)
            yield [padded, np.zeros_like(padded)], sequence_padding(all_targets)

    def replacement(self, token_id):
        import numpy as np

        dice = np.random.random()
        if dice < 0.8:
            return self.mask_id
        return token_id if dice < 0.9 else np.random.randint(1, len(self.tokenizer._token_dict))

    def prepare_step(self, texts, labels):
        return next(self.batches(texts, labels))

    def step(self, batch):
        self.model.train_on_batch(*batch)

    def epoch(self, texts, labels):
        steps = -(-len(texts) // self.batch_size)
        self.model.fit(self.batches(texts, labels), steps_per_epoch=steps, verbose=0)

    def score(self, texts):
        import numpy as np

        # Of the probabilities of all tokens at all positions, these are kept.
        found = []
        for inputs, _ in self.batches(texts):
            predicted = self.model.predict_on_batch(inputs)
            found.append(predicted[:, 1 + PROMPT // 2, self.word_ids])
        return np.concatenate(found).argmax(axis=1)

    def prepare_fine_tuning(self, texts, labels):
        import numpy as np
        import tf_keras
        from bert4keras.models import build_transformer_model
        from bert4keras.snippets import sequence_padding

        bert = build_transformer_model(
            os.path.join(self.folder, "config.json"), os.path.join(self.folder, "bert_model.ckpt")
        )
        x = tf_keras.layers.Lambda(lambda x: x[:, 0])(bert.output)
        x = tf_keras.layers.Dense(len(WORDS), "softmax")(x)
        self.classifier = tf_keras.Model(bert.inputs, x)
        self.classifier.compile(tf_keras.optimizers.Adam(2e-5), "sparse_categorical_crossentropy")
        ids = [self.tokenizer.encode(text, maxlen=self.maxlen)[0] for text in texts]
        ids = sequence_padding(ids)
        return [ids, np.zeros_like(ids)], np.array(labels)

    def fine_tuning_step(self, batch):
        self.classifier.train_on_batch(*batch)


class Transformers(Peer):
    """A frozen `BertForMaskedLM`, virtual tokens as `inputs_embeds`, and its own loss."""

    needs = ("transformers", "torch")
    methods, methods_need = ("prompt", "prefix", "lora", "all"), ("peft",)
    bfloat16 = False

    def build(self):
        import torch
        from transformers import BertForMaskedLM, BertTokenizerFast

        self.tokenizer = BertTokenizerFast(os.path.join(self.folder, "vocab.txt"))
        self.mask_id = self.tokenizer.mask_token_id
        self.word_ids = self.tokenizer.convert_tokens_to_ids(list(WORDS))
        self.device = pytorch_device()
        self.model = BertForMaskedLM.from_pretrained(self.folder).to(self.device)
        self.model.requires_grad_(False)
        rows = self.tokenizer.convert_tokens_to_ids([f"[unused{i + 1}]" for i in range(PROMPT)])
        self.embeddings = self.model.get_input_embeddings()
        self.prompt = torch.nn.Parameter(self.embeddings.weight[rows].clone())
        self.optimizer = torch.optim.Adam([self.prompt], 6e-4)

    def precision(self):
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16)

    def gpu_memory(self):
        return pytorch_gpu_memory()

    def learn(self, loss):
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        # A GPU is done only when somebody reads what it computed. Keras reads the loss too.
        loss.item()

    def encode(self, texts, maxlen):
        batch = self.tokenizer(
            texts, truncation=True, max_length=maxlen, padding=True, return_tensors="pt"
        )
        return batch["input_ids"], batch["attention_mask"]

    def batches(self, texts, labels=None):
        import torch

        order = torch.arange(len(texts)) if labels is None else torch.randperm(len(texts))
        for start in range(0, len(texts), self.batch_size):
            rows = order[start : start + self.batch_size].tolist()
            ids, seen = self.encode([texts[i] for i in rows], self.maxlen - PROMPT - 1)
            targets = torch.full_like(ids, -100)
            if labels is not None:
                chosen = (torch.rand(ids.shape) < MASK_RATE) & (seen > 0) & (ids > 3)
                targets[chosen] = ids[chosen]
                dice = torch.rand(ids.shape)
                ids[chosen & (dice < 0.8)] = self.mask_id
                drawn = chosen & (dice >= 0.9)
                ids[drawn] = torch.randint(len(self.tokenizer), (int(drawn.sum()),))
            # [CLS], then the mask, around which the prompt is laid; it starts with any tokens.
            front = torch.full((len(rows), PROMPT + 1), self.mask_id)
            answers = torch.full_like(front, -100)
            if labels is not None:
                answers[:, PROMPT // 2] = torch.tensor([self.word_ids[labels[i]] for i in rows])
            batch = (
                torch.cat([ids[:, :1], front, ids[:, 1:]], 1),
                torch.cat([torch.ones_like(front), seen], 1),
                torch.cat([targets[:, :1], answers, targets[:, 1:]], 1),
            )
            yield [tensor.to(self.device) for tensor in batch]

    def embed(self, ids):
        import torch

        vectors = self.embeddings(ids)
        first, second = self.prompt.expand(len(ids), -1, -1).chunk(2, dim=1)
        half = PROMPT // 2
        return torch.cat(
            [
                vectors[:, :1],
                first,
                vectors[:, 1 + half : 2 + half],
                second,
                vectors[:, PROMPT + 2 :],
            ],
            dim=1,
        )

    def prepare_step(self, texts, labels):
        self.model.train()
        return next(self.batches(texts, labels))

    def step(self, batch):
        ids, seen, targets = batch
        with self.precision():
            loss = self.model(
                inputs_embeds=self.embed(ids), attention_mask=seen, labels=targets
            ).loss
        self.learn(loss)

    def epoch(self, texts, labels):
        self.model.train()
        for batch in self.batches(texts, labels):
            self.step(batch)

    def score(self, texts):
        import torch

        self.model.eval()
        found = []
        with torch.inference_mode(), self.precision():
            for ids, seen, _ in self.batches(texts):
                logits = self.model(inputs_embeds=self.embed(ids), attention_mask=seen).logits
                found.append(logits[:, 1 + PROMPT // 2, self.word_ids].float())
        return torch.cat(found).argmax(dim=1).cpu().numpy()

    def prepare_fine_tuning(self, texts, labels):
        import torch
        from transformers import BertForSequenceClassification

        self.classifier = BertForSequenceClassification.from_pretrained(self.folder)
        self.classifier.to(self.device).train()
        self.optimizer = torch.optim.Adam(self.classifier.parameters(), 2e-5)
        return *self.encode(texts, self.maxlen), torch.tensor(labels)

    def fine_tuning_step(self, batch):
        ids, seen, targets = (tensor.to(self.device) for tensor in batch)
        with self.precision():
            loss = self.classifier(ids, attention_mask=seen, labels=targets).loss
        self.learn(loss)

    def build_method(self, method):
        """PEFT, for whose classes of tasks a masked language model counts as "features"."""
        import torch
        from transformers import BertForMaskedLM

        self.method = method
        self.device = pytorch_device()
        self.model = BertForMaskedLM.from_pretrained(self.folder)
        if method != "all":
            import peft

            task = "FEATURE_EXTRACTION"
            configs = {
                "prompt": lambda: peft.PromptTuningConfig(task, num_virtual_tokens=PROMPT),
                "prefix": lambda: peft.PrefixTuningConfig(task, num_virtual_tokens=PREFIX),
                "lora": lambda: peft.LoraConfig(
                    task, r=8, lora_alpha=16, target_modules=["query", "value"]
                ),
            }
            self.model = peft.get_peft_model(self.model, configs[method]())
        self.model.to(self.device).train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, 2e-5 if method == "all" else 1e-3)

    def prepare_method(self, inputs, labels, template_ids, word_ids):
        import torch

        ids = torch.tensor(inputs["masked_token_ids"])
        targets = torch.full_like(ids, -100)
        auxiliary = torch.tensor(inputs["auxiliary_ids"])
        targets.scatter_(1, torch.tensor(inputs["auxiliary_positions"]), auxiliary)
        # Where a text has fewer masks than another, its list ends with -1.
        targets[targets < 0] = -100
        answers = torch.tensor([[word_ids[label]] for label in labels])
        targets.scatter_(1, torch.tensor(inputs["mask_positions"]), answers)
        if self.method == "prompt":
            # PEFT lays its virtual tokens before the text, and leaves the targets to its user.
            kept = ~torch.isin(ids[0], torch.tensor(template_ids))
            ids, targets = ids[:, kept], targets[:, kept]
            nothing = torch.full((len(ids), PROMPT), -100)
            targets = torch.cat([nothing, targets], dim=1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": targets}

    def method_steps(self, batch, count):
        ends = []
        for _ in range(count):
            inputs = {name: tensor.to(self.device) for name, tensor in batch.items()}
            with self.precision():
                loss = self.model(**inputs).loss
            self.learn(loss)
            ends.append(clock())
        return ends


class TransformersBfloat16(Transformers):
    bfloat16 = True


class KerasPtuning(Peer):
    """This library."""

    methods = tuple(METHODS)
    dtype = "float32"

    def gpu_memory(self):
        import keras

        if keras.backend.backend() == "torch":
            return pytorch_gpu_memory()
        if keras.backend.backend() == "jax":
            import jax

            return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return None

    def build(self):
        from keras_ptuning import PlainText, Template, build_ptuning_model

        labels = dict(enumerate(WORDS))
        self.template = Template(cloze_pattern(), labels, self.folder, self.maxlen)
        self.plain = PlainText(list(range(len(WORDS))), self.folder, self.maxlen)
        self.model = build_ptuning_model(self.folder, template=self.template, dtype=self.dtype)
        self.model.compile()

    def prepare_step(self, texts, labels):
        return self.template.dataset(texts, labels, self.batch_size, mask_rate=MASK_RATE)[0]

    def step(self, batch):
        self.model.train_on_batch(*batch)

    def epoch(self, texts, labels):
        data = self.template.dataset(texts, labels, self.batch_size, mask_rate=MASK_RATE)
        self.model.fit(data, verbose=0)

    def score(self, texts):
        data = self.template.dataset(texts, batch_size=self.batch_size)
        return self.model.predict(data, verbose=0).argmax(axis=1)

    def prepare_fine_tuning(self, texts, labels):
        from keras_ptuning import build_classifier

        self.classifier = build_classifier(self.folder, template=self.plain, dtype=self.dtype)
        self.classifier.compile()
        return self.plain.dataset(texts, labels, self.batch_size)[0]

    def fine_tuning_step(self, batch):
        self.classifier.train_on_batch(*batch)

    def build_method(self, method):
        from keras_ptuning import Template, build_ptuning_model
        from keras_ptuning.methods import Adapter, LoRA, Prefix, Prompt

        tune = {
            "prompt": Prompt(),
            "prefix": Prefix(PREFIX),
            "lora": LoRA(rank=8, layers=("query", "value")),
            "adapter": Adapter(48, "houlsby"),
            "pfeiffer": Adapter(48, "pfeiffer"),
            "all": "all",
        }[method]
        pattern = cloze_pattern(PROMPT if method == "prompt" else 0)
        template = Template(pattern, dict(enumerate(WORDS)), self.folder, self.maxlen)
        self.model = build_ptuning_model(
            self.folder, template=template, tune=tune, dtype=self.dtype
        )
        self.model.compile()

    def prepare_method(self, inputs, labels, template_ids, word_ids):
        import numpy as np

        inputs = {name: np.array(array, "int32") for name, array in inputs.items()}
        return inputs, np.array(labels, "int32")

    def method_steps(self, batch, count):
        import keras

        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return count

            def __getitem__(self, index):
                return batch

        ends = []
        note = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: ends.append(clock())
        )
        self.model.fit(Batches(), callbacks=[note], verbose=0)
        return ends


def _this_library(backend, dtype):
    return type(
        "KerasPtuning",
        (KerasPtuning,),
        {
            "needs": {"tensorflow": ("tensorflow",), "torch": ("torch",), "jax": ("jax",)}[backend],
            "environment": {"KERAS_BACKEND": backend},
            "dtype": dtype,
        },
    )


REFERENCE, METHODS_REFERENCE = "bert4keras, float32", "transformers, float32"
PEERS = {
    REFERENCE: Bert4keras,
    METHODS_REFERENCE: Transformers,
    "transformers, bfloat16": TransformersBfloat16,
    **{
        f"keras_ptuning, {backend}, {short}": _this_library(backend, dtype)
        for backend in ("tensorflow", "torch", "jax")
        for short, dtype in (("float32", "float32"), ("bfloat16", "mixed_bfloat16"))
    },
}
