"""Operations: attributes are restored, and equal nodes share a kernel."""

import contextlib
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from kernel_cases import UNIVOC

from wavernn_trt.plugins import driver
from wavernn_trt.plugins.device_stream import DeviceStream, on_device
from wavernn_trt.plugins.driver import primary_context
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.operations import (
    ATTRIBUTES,
    OPERATIONS,
    GruOperation,
    MaterialiseOperation,
    Operation,
    SequenceOperation,
)

NODES: list[Operation] = [GruOperation(896, 256), SequenceOperation(UNIVOC), MaterialiseOperation()]


@pytest.mark.parametrize("operation", NODES)
def test_an_operation_is_restored_from_its_attributes(operation: Operation) -> None:
    attributes = operation.attributes()
    assert tuple(attributes) == ATTRIBUTES[operation.operator]
    kind = OPERATIONS[operation.operator]
    assert kind.from_attributes(attributes) == operation
    assert (
        kind.from_attributes({name: np.ravel(value).astype(np.int32) for name, value in attributes.items()})
        == operation
    )


def test_equal_nodes_share_a_kernel() -> None:
    """A plan of a thousand unrolled steps holds a thousand plugins; each loading the kernel would take minutes."""
    assert GruOperation(896, 256).bind("fp16") is GruOperation(896, 512).bind("fp16")
    assert GruOperation(896, 256).bind("fp16") is not GruOperation(896, 256).bind("bf16")
    assert GruOperation(896, 256).bind("fp16") is not GruOperation(512, 256).bind("fp16")
    again = SequenceOperation(dataclasses.replace(UNIVOC))
    assert again.bind("fp32") is SequenceOperation(UNIVOC).bind("fp32")
    assert MaterialiseOperation().bind("fp32") is MaterialiseOperation().bind("fp32")


def test_materialising_is_one_copy_on_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[tuple[int, ...]] = []
    monkeypatch.setattr(driver, "copy", lambda *arguments: copies.append(arguments))
    kernel = MaterialiseOperation().bind("fp32")
    sizes = {"T": 1024, "B": 8, "C": 2688}
    assert kernel.workspace_bytes(sizes) == 0
    kernel.launch(sizes, (11, 12), 0, 13)
    assert copies == [(11, 12, 4 * 1024 * 8 * 2688, 13)]


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
def test_materialised_rows_are_the_rows(captured: bool) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 3, 33)).astype(np.float32)
    found = np.full_like(rows, np.nan)
    kernel = MaterialiseOperation().bind("fp32")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(primary_context())
        except KernelError as error:
            pytest.skip(str(error))
        kernel.prepare({"T": 7, "B": 3, "C": 33})
        pointers, fetch = stack.enter_context(on_device([rows.copy(), found]))  # both are copied back
        stream = stack.enter_context(contextlib.closing(DeviceStream()))

        def work(handle: int) -> None:
            kernel.launch({"T": 7, "B": 3, "C": 33}, pointers, 0, handle)

        (stream.captured(work) if captured else work)(stream.handle)
        stream.synchronize()
        fetch()
    np.testing.assert_array_equal(found, rows)


def test_a_plan_can_be_sized_without_cuda() -> None:
    code = (
        "import sys; from wavernn_trt.plugins.operations import GruOperation as G\n"
        "assert G(896, 256).bind('fp16').workspace_bytes({'B': 3}) == 0\n"
        "assert not {'cuda', 'torch', 'onnx', 'tensorrt_rtx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
    one, many = (SequenceOperation(UNIVOC).bind("fp16").workspace_bytes({"B": b, "T": 4, "W": 5}) for b in (1, 64))
    assert 0 < one < many


@pytest.mark.parametrize("attributes", [{"hidden_size": [8, 8]}, {"hidden_size": -1}, {"hidden_size": 8.5}])
def test_an_invalid_size_is_refused(attributes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"attribute hidden_size is .*, expected a positive integer"):
        GruOperation.from_attributes({"input_size": 1, **attributes})
