"""A server that answers over HTTP from a folder of tuned files. It needs the extra `serve`."""

from keras_ptuning.serving.server import serve

__all__ = ["serve"]
