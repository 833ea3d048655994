"""One GRU cell: the numpy reference, PyTorch's own cell and the ONNX function agree, at odd sizes too."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.export.operators import Precision
from wavernn_trt.plugins.reference import gru_cell, product

Arrays = tuple[NDArray[np.float32], ...]
SIZES = [(1, 1), (1, 7), (3, 16), (5, 33), (2, 896)]


def random_cell(batch: int, size: int) -> Arrays:
    random = np.random.default_rng(size)
    shapes = ((batch, 3 * size), (batch, size), (3 * size, size), (3 * size,))
    gates, hidden, weight, bias = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return gates, np.tanh(hidden), (weight / np.sqrt(size)).astype(np.float32), bias


@pytest.mark.parametrize(("batch", "size"), SIZES)
def test_reference_is_pytorchs_cell(batch: int, size: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch's cell is what we compare with")
    gates, hidden, weight, bias = random_cell(batch, size)
    cell = torch.nn.GRUCell(3 * size, size)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.eye(3 * size))  # the gates are the input's product already
        cell.bias_ih.zero_()
        cell.weight_hh.copy_(torch.from_numpy(weight))
        cell.bias_hh.copy_(torch.from_numpy(bias))
        expected = cell(torch.from_numpy(gates), torch.from_numpy(hidden)).numpy()
    np.testing.assert_allclose(gru_cell(gates, hidden, weight, bias), expected, atol=2e-6)


@pytest.mark.parametrize(("batch", "size"), SIZES)
def test_onnx_function_is_the_reference(batch: int, size: int) -> None:
    onnx = pytest.importorskip("onnx", reason="the function is an ONNX one")
    import onnxruntime

    from wavernn_trt.export import operators
    from wavernn_trt.export.rewrite.gru_function import gru_function

    arrays = random_cell(batch, size)
    names = ["gates", "hidden", "recurrent_weight", "recurrent_bias"]
    values = [onnx.helper.make_tensor_value_info(n, 1, a.shape) for n, a in zip(names, arrays, strict=True)]
    attributes = {"hidden_size": size, "input_size": 4, "plugin_version": "1", "plugin_namespace": "wavernn_trt"}
    node = onnx.helper.make_node(operators.GRU_OPERATOR, names, ["next"], domain=operators.DOMAIN, **attributes)
    output = onnx.helper.make_tensor_value_info("next", 1, (batch, size))
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "cell", values, [output]),
        opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(operators.DOMAIN, 1)],
        functions=[gru_function(18)],
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, dict(zip(names, arrays, strict=True)))
    np.testing.assert_allclose(found, gru_cell(*arrays), atol=2e-6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(("batch", "size"), [(3, 16), (5, 33), (2, 896)])
def test_low_precision_errs_less_than_twice_a_plain_product(batch: int, size: int, precision: Precision) -> None:
    """Both against float64; the plain cell's product gives that type's numbers, its gates are float32."""
    torch = pytest.importorskip("torch", reason="the plain product is PyTorch's")
    arrays = random_cell(batch, size)

    def cell(products: Any, others: Any) -> Any:
        gates, hidden, weight, bias = (torch.from_numpy(array).to(others) for array in arrays)
        recurrent = (hidden.to(products) @ weight.to(products).T).to(others) + bias
        (a, b, c), (d, e, f) = gates.chunk(3, dim=1), recurrent.chunk(3, dim=1)
        new, keep = torch.tanh(c + torch.sigmoid(a + d) * f), torch.sigmoid(b + e)
        return ((1 - keep) * new + keep * hidden).double().numpy()

    truth = cell(torch.float64, torch.float64)
    plain = cell({"fp16": torch.float16, "bf16": torch.bfloat16}[precision], torch.float32)
    found = gru_cell(*arrays, precision)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - truth).max() <= 2 * np.abs(plain - truth).max()


def test_products_are_summed_in_float32() -> None:
    """Above 2048 a sum in half precision does not change when one is added."""
    ones = np.ones((1, 4099), np.float32)
    assert product(ones, ones, "fp16").item() == 4099.0
    assert product(ones, ones, "bf16").item() == 4099.0
    assert product(ones * np.float32(1 + 2**-9), ones, "bf16").item() == 4099.0  # the operand is rounded
    assert product(ones * np.float32(1 + 2**-9), ones, "fp32").item() == 4107.005859375
