"""What a plugin holds of its node: attributes there and back, and one kernel for all equal nodes."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.operations import ATTRIBUTES, OPERATIONS, GruOperation, Operation, SequenceOperation

UNIVOC = SequenceShape(
    hidden_size=896,
    layers=1,
    fc_sizes=(1024,),
    outputs=1024,
    output="categorical",
    label_feedback=True,
    skip=False,
    group_columns=(3 * 896,),
    group_held=(True,),
    place_groups=((0,), ()),
)
NODES: list[Operation] = [GruOperation(896, 256), SequenceOperation(UNIVOC)]


@pytest.mark.parametrize("operation", NODES)
def test_attributes_make_the_operation_again(operation: Operation) -> None:
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
def test_a_size_that_is_none_is_refused(attributes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"attribute hidden_size is .*, expected a positive integer"):
        GruOperation.from_attributes({"input_size": 1, **attributes})
