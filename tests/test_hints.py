"""Type hints of public functions; mypy checks what is behind them."""

import inspect

import pytest

import keras_ptuning
from keras_ptuning.estimators.base import TextEstimator

HINTED = [
    keras_ptuning.calibrate,
    keras_ptuning.PetClassifier.__init__,
    keras_ptuning.PetClassifier.ensemble_proba,
    keras_ptuning.PetClassifier.fit,
    keras_ptuning.PromptClassifier.__init__,
    keras_ptuning.PromptClassifier.fit,
    keras_ptuning.TextPredictor.__init__,
    *(getattr(TextEstimator, n) for n in ("predict", "predict_proba", "score", "save", "load")),
]


@pytest.mark.parametrize("function", HINTED, ids=lambda function: function.__qualname__)
def test_each_argument_has_a_type(function):
    signature = inspect.signature(function)
    missing = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name != "self"
    ]
    assert not missing and signature.return_annotation is not signature.empty
