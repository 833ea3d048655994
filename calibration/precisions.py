"""Precisions by the names that commands know them by."""

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
"""Grid, and whether activations are left as they are."""
PRECISIONS: tuple[str, ...] = ("fp32", *_GRIDS)
"""Of a decoder's products."""
EIGHT_BITS: tuple[str, ...] = tuple(name for name, (grid, _) in _GRIDS.items() if grid in LARGEST)
"""Those that a model directory is worth quantising to; the others are an engine's own."""


def needs_table(precision: str) -> bool:
    """Whether activations are rounded to a grid that is scaled."""
    grid, weights_only = _GRIDS.get(precision, ("fp16", True))
    return grid in LARGEST and not weights_only


def check_products(model: ModelConfig, kept: Collection[str]) -> tuple[str, ...]:
    """All of a model's products, if those named are among them.

    Raises:
        CalibrationError: names the one that is not.
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
    """What a precision rounds of a model's products; nothing for ``fp32``.

    Args:
        precision: one of `PRECISIONS`.
        model: the configuration.
        table: of the model; needed for ``int8`` and ``fp8``.
        method: how its bounds were found; `CalibrationTable.quantization` says which by default.
        kept: products to leave in float32.

    Raises:
        CalibrationError: no such precision or product, or a table is needed.
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
            f"{precision} rounds activations, for which it needs their ranges; make a table of them with: "
            "wavernn-trt calibrate DIR SPEECH -o TABLE"
        )
    return table.quantization(grid, kept=kept) if method is None else table.quantization(grid, method, kept=kept)
