"""The limits that speeds are compared with: matrix products and copies, measured on this machine."""

from __future__ import annotations

import numpy as np
import pytest
import threadpoolctl
from small_voice import SMALL_VOICE

from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.scripts.bench.limits import (
    COPY,
    GPU,
    GPU_COPY,
    LIBRARIES,
    SIZE,
    DeviceLimits,
    Limits,
    MatrixProducts,
    MemoryCopy,
)
from wavernn_trt.scripts.bench.machine import largest_cache
from wavernn_trt.scripts.bench.speed import reduce
from wavernn_trt.scripts.bench.timing import Timing


@pytest.mark.parametrize("threads", [1, 3])
def test_the_whole_array_is_copied_with_any_number_of_threads(threads: int) -> None:
    copy = MemoryCopy(threads, size=1_000_003)
    copy._source[:] = np.arange(copy.size, dtype=np.uint8)
    assert copy.bytes_per_second() > 1e6
    assert np.array_equal(copy._target, copy._source)
    copy.close()


def test_a_copy_is_larger_than_every_cache() -> None:
    copy = MemoryCopy(1)
    assert copy.size >= min(2 << 30, 4 * largest_cache())
    assert copy.size >= 128 << 20
    copy.close()


def test_the_matrix_products_are_computed() -> None:
    products = MatrixProducts(1)
    expected = products._a @ products._b
    (found,) = products._session.run(None, {"a": products._a, "b": products._b})
    assert np.abs(found - expected).max() < 1e-3 * SIZE**0.5
    assert all(products.flops(name) > 1e8 for name in LIBRARIES)


def test_numpy_s_threads_are_limited_while_its_product_is_measured() -> None:
    blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
    if not blas.info():
        pytest.skip("threadpoolctl does not support numpy's BLAS here")
    with blas.limit(limits=2):
        limits = Limits(1, [], {})
        assert limits.numpy_threads == 1
        limits.close()
        assert {one["num_threads"] for one in blas.info()} == {2}


def test_limits_are_measured_by_name() -> None:
    missing: dict[str, str] = {}
    limits = Limits(1, [], missing)
    found = limits.measure()
    limits.close()
    assert set(found) == set(limits.names) == {*LIBRARIES, COPY}
    assert all(value > 1e8 for value in found.values())
    assert missing == {}


def test_without_a_gpu_its_limits_are_missing_with_the_reason() -> None:
    torch = pytest.importorskip("torch", reason="a GPU's limits are PyTorch's")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    missing: dict[str, str] = {}
    limits = Limits(1, ["fp16"], missing)
    limits.close()
    assert missing[GPU].startswith(f"not measured: torch {torch.__version__} finds no GPU")
    assert set(limits.names) == {*LIBRARIES, COPY}


def test_the_device_s_product_and_copy_are_pytorch_s() -> None:
    """On the CPU; on a GPU only the device and the synchronisation differ."""
    torch = pytest.importorskip("torch", reason="a GPU's limits are PyTorch's")
    limits = DeviceLimits(["fp32", "bf16"], "cpu", product_size=64, copy_bytes=4096)
    assert all(limits.flops(precision) > 1e5 for precision in ("fp32", "bf16"))
    limits._target.zero_()
    assert limits.bytes_per_second() > 1e5
    assert torch.equal(limits._target, limits._source)


def test_weights_in_fp8_are_compared_with_the_limit_of_fp16() -> None:
    rounds = [[1e10], [2e10]]
    names = (*LIBRARIES, COPY, "gpu fp16 product", GPU_COPY)
    timings = [
        Timing("cuda", 1, 100, 50, "gpu", precision, elapsed=[1.0, 2.0]) for precision in ("fp16", "bf16", "fp8")
    ]
    report = reduce(open_model_directory(SMALL_VOICE), timings, [1], dict.fromkeys(names, rounds), [], with_numpy=True)
    fp16, bf16, fp8 = report["results"]
    assert bf16["share_of_limit"] is None
    assert fp8["share_of_limit"] == fp16["share_of_limit"] > 0
    assert fp8["weight_bytes_a_step"] == fp16["weight_bytes_a_step"] / 2
