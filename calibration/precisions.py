"""The precisions of the commands, and the quantisation of each."""

from __future__ import annotations

from collections.abc import Collection

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.calibration.table import CalibrationTable, Method
from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.quantization import LARGEST, Grid, Product, Quantization, product_names

_GRIDS: dict[str, tuple[Grid, bool]] = {
    "fp16": ("fp16", False),
    "bf16": ("bf16", False),
    "int8": ("int8", False),
    "fp8": ("fp8", False),
    "int8-weights": ("int8", True),
    "fp8-weights": ("fp8", True),
}
"""Grid, and whether only the weights are rounded."""
PRECISIONS: tuple[str, ...] = ("fp32", *_GRIDS)
"""Precisions of a decoder's products."""
EIGHT_BITS: tuple[str, ...] = tuple(name for name, (grid, _) in _GRIDS.items() if grid in LARGEST)
"""Precisions of quantised model directories; the others are settings of an engine."""


def needs_table(precision: str) -> bool:
    """Whether activations are rounded to a scaled grid."""
    grid, weights_only = _GRIDS.get(precision, ("fp16", True))
    return grid in LARGEST and not weights_only


def check_products(model: ModelConfig, kept: Collection[str]) -> tuple[str, ...]:
    """Returns all of a model's products after checking that ``kept`` are among them.

    Raises:
        CalibrationError: a product that the model does not have.
    """
    names = product_names(model)
    for name in kept:
        if name not in names:
            raise CalibrationError(f"keep: found {name!r}, expected some of {', '.join(names)}")
    return names


def quantization_of(
    precision: str,
    model: ModelConfig,
    table: CalibrationTable | None = None,
    method: Method | None = None,
    kept: Collection[str] = (),
) -> Quantization:
    """Returns the quantisation of a precision; without products for ``fp32``.

    Args:
        precision: one of `PRECISIONS`.
        model: the configuration.
        table: the model's table; needed for ``int8`` and ``fp8``.
        method: method of the bounds; ``None`` is the default of `CalibrationTable.quantization`.
        kept: products to keep in float32.

    Raises:
        CalibrationError: no such precision or product, or the table is missing.
    """
    names = check_products(model, kept)
    if precision == "fp32":
        return Quantization({})
    if precision not in _GRIDS:
        raise CalibrationError(f"precision: found {precision!r}, expected one of {', '.join(PRECISIONS)}")
    grid, weights_only = _GRIDS[precision]
    if not needs_table(precision):
        return Quantization({name: Product(grid, weights_only=weights_only) for name in names if name not in kept})
    if table is None:
        raise CalibrationError(
            f"{precision} rounds activations and needs a table of their ranges; make one with: "
            "wavernn-trt calibrate DIR SPEECH -o TABLE"
        )
    return table.quantization(grid, method, kept=kept)
