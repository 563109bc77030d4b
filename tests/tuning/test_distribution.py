"""Several devices do what one does, to the last digits."""

import contextlib
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_ptuning import build_ptuning_model

SCRIPT = pathlib.Path(__file__).with_name("distribution_run.py")


def start(backend, small_bert, names, devices, *worker):
    arguments = [names, *small_bert, devices, *worker]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(*processes):
    with contextlib.suppress(subprocess.TimeoutExpired):
        for process in processes:
            process.wait(timeout=300)
    for process in processes:
        process.kill()
    printed = [process.communicate() for process in processes]
    # Of two processes, the one that fails first says why, and the other may wait for it.
    errors = "\n".join(error[-3000:] for _, error in printed)
    assert not any(process.returncode for process in processes), errors
    return [json.loads(out.splitlines()[-1]) for out, _ in printed]


def free_ports():
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module", params=[pytest.param("tensorflow", marks=pytest.mark.slow), "jax"])
def backend(request):
    if not importlib.util.find_spec(request.param):
        pytest.skip(f"without {request.param}")
    return request.param


@pytest.fixture(scope="module")
def one_device(backend, small_bert):
    return results(start(backend, small_bert, "prompt", 1))[0]


def check(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        for one, other in zip(found[name], values, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4, err_msg=name)


def test_two_devices(backend, small_bert, one_device):
    check(*results(start(backend, small_bert, "prompt", 2)), one_device)


@pytest.mark.slow
def test_two_processes(backend, small_bert, one_device):
    ports = free_ports()
    found = results(*(start(backend, small_bert, "prompt", 1, rank, *ports) for rank in range(2)))
    head, other_head = (one.pop("head") for one in found)
    assert head == other_head and np.ptp(head[0]) > 0
    for one in found:
        check(one, one_device)


@pytest.mark.slow
def test_whole_models(backend, small_bert):
    one, two = (results(start(backend, small_bert, "all,vat", devices))[0] for devices in (1, 2))
    check(one, two)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only PyTorch cannot")
def test_pytorch(small_bert, make_template):
    with pytest.raises(ValueError, match=r"TensorFlow or JAX.*'torch'"):
        build_ptuning_model(*small_bert[:2], make_template(), data_parallel=True)
