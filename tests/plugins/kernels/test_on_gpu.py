"""The kernels on a GPU are the numpy references."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes.util import find_library

import pytest

from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.choice import candidates
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.device_kernels import DeviceKernels, primary_context
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.kernel_cases import GruCase, SequenceCase, small_shapes

SHAPES = small_shapes()


@pytest.fixture(scope="module")
def device_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceKernels]:
    context = primary_context()
    try:
        context.__enter__()
    except KernelError as error:
        pytest.skip(str(error))
    yield DeviceKernels(KernelCache(tmp_path_factory.mktemp("cubins")))
    context.__exit__(None, None, None)


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("batch", "size"), [(1, 1), (1, 7), (3, 16), (5, 33), (9, 40), (2, 896), (70, 1030)])
def test_a_cell_is_the_reference(
    device_kernels: DeviceKernels, batch: int, size: int, precision: Precision, captured: bool
) -> None:
    case = GruCase(batch, size, precision)
    assert case.excess(device_kernels.gru_cell(case, captured=captured)) <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("model", SHAPES)
def test_a_chunk_is_the_reference(
    device_kernels: DeviceKernels, model: str, batch: int, precision: Precision, captured: bool
) -> None:
    case = SequenceCase(SHAPES[model], precision, batch, steps=12)
    inputs = case.inputs()
    for choice in choices(case, groups=1):
        found = device_kernels.sequence(case, inputs, choice=choice, captured=captured)
        assert case.excess(found, inputs) <= 1, choice


@pytest.mark.gpu
def test_groups_of_blocks_share_the_streams_out(device_kernels: DeviceKernels) -> None:
    case = SequenceCase(SHAPES["two layers, skip, values"], "fp16", 9)
    inputs = case.inputs()
    for choice in choices(case, groups=2):
        assert case.excess(device_kernels.sequence(case, inputs, choice=choice), inputs) <= 1, choice


def choices(case: SequenceCase, groups: int) -> list[Choice]:
    """Every kernel that can run a case on the device, in so many groups of blocks."""
    _, device = driver.current_device()
    every = [choice for choice, _ in candidates(case.shape, case.precision, case.batch, device)]
    found = [choice for choice in every if choice.groups == groups]
    kernels = {choice.kernel for choice in found}
    assert {"sequence", "resident_stamped_16"} <= kernels or case.precision == "fp32"
    return found


def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    if find_library("cuda"):
        pytest.skip("there is a driver here")
    with pytest.raises(KernelError, match=r"need an NVIDIA driver|pip install cuda-bindings"), primary_context():
        pass
