"""Devices, seeds and threads for all tests."""

import gc
import os
import random

import numpy as np
import pytest
import torch


def _why_no_gpu() -> str | None:
    """Why the tests marked ``cuda`` cannot run here, or None when they can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no usable NVIDIA GPU or driver"
    return None


def pytest_report_header():
    reason = _why_no_gpu()
    return [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"GPU: {reason or torch.cuda.get_device_name()}"
    ]


def pytest_collection_modifyitems(items):
    reason = _why_no_gpu()
    if reason is None:
        return
    skip = pytest.mark.skip(reason=f"needs a GPU: {reason}")
    for item in items:
        if "cuda" in item.keywords and item.get_closest_marker("cuda"):
            item.add_marker(skip)


def pytest_configure():
    """Threads as many as are this process's: a container's share, not the machine's cores.

    Processes that run tests side by side (pytest -n) share them, also with what tests start.
    """
    if "OMP_NUM_THREADS" in os.environ or not hasattr(os, "sched_getaffinity"):
        return
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    threads = max(1, len(os.sched_getaffinity(0)) // int(workers or 1))
    torch.set_num_threads(threads)
    if workers:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def pytest_collection():
    """Garbage is not looked for while tests are imported."""
    gc.disable()


def pytest_collection_finish():
    """Nor later among what is here to stay, which took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def seed():
    """The same random numbers in every test, whatever ran before it; returns the seed."""
    value = 20230712
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002  (libraries under test use the global state)
    torch.manual_seed(value)
    return value


@pytest.fixture
def rng(seed):
    """A torch generator of the test's own."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Runs a test on the CPU and, where there is one, on a GPU."""
    return torch.device(request.param)


_shared = {}  # the models that the tests of a process share, each as it was when it was read


def _as_it_is(model):
    """What changes when a network does: versions and places of its tensors, its modules, hooks."""
    network = model.network
    tensors = [*network.named_parameters(), *network.named_buffers()]
    modules = [(name, m, m.training) for name, m in network.named_modules()]
    return (
        [(name, p.data_ptr(), p._version, p.stride(), p.requires_grad) for name, p in tensors],
        [(name, type(m), training, len(m._forward_hooks), len(m._forward_pre_hooks),
          m.__dict__.get("forward"), m.__dict__.get("processor")) for name, m, training in modules],
    )  # fmt: skip


def _settings():
    """Settings of torch that change what an operation rounds to, as which attention it takes."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "mkldnn": (torch.backends.mkldnn.enabled, torch.backends.mkldnn.matmul.fp32_precision,
                   torch.backends.mkldnn.conv.fp32_precision),
        "attention": (torch.backends.cuda.math_sdp_enabled(),
                      torch.backends.cuda.flash_sdp_enabled(),
                      torch.backends.cuda.mem_efficient_sdp_enabled(),
                      torch.backends.cuda.cudnn_sdp_enabled()),
    }  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    """Every test leaves torch's settings, and the models that all share, as it found them."""
    before = _settings()
    yield
    assert _settings() == before
    for name in _shared.keys() & request.fixturenames:
        model, found = _shared[name]
        assert _as_it_is(model) == found, f"this test changed {name}, which all tests share"


def _share(name, model):
    _shared[name] = model, _as_it_is(model)
    return model


@pytest.fixture(scope="session")
def digits():
    """The bundled digit model in float32 on the CPU; tests leave it as they find it."""
    import pullback

    return _share("digits", pullback.load("digits"))


@pytest.fixture(scope="session")
def digits64():
    """The same network in float64: the oracle."""
    import pullback

    return _share("digits64", pullback.load("digits", dtype=torch.float64))
