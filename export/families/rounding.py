"""A decoder step with the rounded products of a quantised model directory: the reference for executors.

A product's weights are the columns that remain in the step after folding the sample and hoisting the conditioning
(`wavernn_trt.export.rewrite`). These columns come first; the others multiply ``aux`` once per frame and are not
rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.families.wavernn import DecoderStep, GRUCell
from wavernn_trt.export.grids import round_weight
from wavernn_trt.export.quantization import LARGEST, Grid, Product, Quantization

_TYPES: dict[Grid, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}


class RoundedActivations(nn.Module):
    """Applies `wavernn_trt.export.grids.round_activations` to the first columns of a product's input."""

    def __init__(self, product: Product, width: int) -> None:
        super().__init__()
        self.product = product
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] of any float type -> the same with the first columns rounded."""
        if self.product.weights_only:
            return x
        return torch.cat([self._round(x[:, : self.width].float()).to(x.dtype), x[:, self.width :]], dim=1)

    def _round(self, values: Tensor) -> Tensor:
        grid = self.product.grid
        if grid not in LARGEST:
            return values.to(_TYPES[grid]).float()
        scale = torch.tensor(self.product.scale, dtype=torch.float32)
        scaled = values / scale
        if grid == "int8":
            return torch.round(scaled).clamp(-128, 127).double() * scale
        return scaled.clamp(-LARGEST[grid], LARGEST[grid]).to(_TYPES[grid]).double() * scale


@torch.no_grad()
def round_step(step: DecoderStep, model: ModelConfig, quantization: Quantization) -> None:
    """Rounds a step's products in place: the weights now, the activations in every run.

    Args:
        step: step of any family, with its temperature applied.
        model: its configuration.
        quantization: products of the model.

    Raises:
        ValueError: weights that are not finite.
    """
    # univoc's only cell is named rnn2; in the other families the first cell is rnn1.
    cells = ("rnn2",) if model.family == "univoc" else ("rnn1", "rnn2")
    # univoc's last layer is fc2; that of the other families is fc3, also after turian's only hidden layer fc1.
    output = "fc2" if model.family == "univoc" else "fc3"
    widths = (model.hidden_size, *model.fc_sizes)
    for name, product in quantization.products.items():
        kind, _, number = name.partition("_")
        if kind in ("recurrent", "input"):
            _round_cell(step.get_submodule(cells[int(number)]), kind, product, model.hidden_size)
        elif kind == "fc":
            _round_dense(step, f"fc{int(number) + 1}", product, widths[int(number)])
        else:
            _round_dense(step, output, product, widths[-1])


def _round_cell(cell: nn.Module, kind: str, product: Product, width: int) -> None:
    assert isinstance(cell, GRUCell)
    rounded = RoundedActivations(product, width)
    if kind == "input":
        cell.input_operand = rounded
        _round_columns(cell.weight_ih_l0, product, width)
    else:
        cell.hidden_operand = rounded
        _round_columns(cell.weight_hh_l0, product, width)


def _round_dense(step: DecoderStep, name: str, product: Product, width: int) -> None:
    layer = step.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    _round_columns(layer.weight, product, width)
    setattr(step, name, nn.Sequential(RoundedActivations(product, width), layer))


def _round_columns(weight: Tensor, product: Product, width: int) -> None:
    columns = weight[:, :width]
    columns.copy_(torch.from_numpy(round_weight(columns.float().numpy(), product)))
