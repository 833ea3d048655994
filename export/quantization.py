"""Which of a decoder's matrix products are rounded to which grid: the ``quantization`` of a ``config.json``.

A product is named after its weights: ``recurrent_l`` of layer l, ``input_1`` of the second layer, ``fc_i``, ``output``.
Gates, embedding, biases, softmax and sampling are float32 always, and so is the conditioner.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from wavernn_trt.export.config import ModelConfig, require

Grid = Literal["fp16", "bf16", "int8", "fp8"]
"""``fp8`` is e4m3. ``int8`` and ``fp8`` are scaled: weights by a number for each output channel, which makes the
channel's largest weight the grid's largest; activations by one number."""
GRIDS: tuple[Grid, ...] = get_args(Grid)
LARGEST: dict[Grid, float] = {"int8": 127.0, "fp8": 448.0}
"""Of the grids that are scaled; the largest number that they are used up to."""

_SMALLEST_SCALE, _LARGEST_SCALE = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""The normal numbers of float32."""


def product_names(model: ModelConfig) -> tuple[str, ...]:
    """A decoder's matrix products, in the order in which a step computes them."""
    recurrent = ["recurrent_0", *(("input_1", "recurrent_1") if model.layers == 2 else ())]
    return (*recurrent, *(f"fc_{i}" for i in range(len(model.fc_sizes))), "output")


def product_sizes(model: ModelConfig) -> dict[str, int]:
    """How many weights each product has, in the same order."""
    widths = (model.hidden_size, *model.fc_sizes, model.outputs)
    dense = [a * b for a, b in itertools.pairwise(widths)]
    sizes = [3 * model.hidden_size**2] * (2 * model.layers - 1) + dense
    return dict(zip(product_names(model), sizes, strict=True))


@dataclass(frozen=True)
class Product:
    """What one product's operands are rounded to; sums are exact or float32."""

    grid: Grid
    bound: float | None = None
    """The largest magnitude that the activations' grid holds: `LARGEST` times its scale; beyond, they are clipped.
    ``None`` where the grid has no scale, or where activations are left as they are."""
    weights_only: bool = False
    """Whether activations are left as they are."""

    def __post_init__(self) -> None:
        """Refuses what is no grid."""
        require(self.grid in GRIDS, "quantization.grid", self.grid, f"one of {', '.join(GRIDS)}")
        require(isinstance(self.weights_only, bool), "quantization.weights_only", self.weights_only, "true or false")
        if self.grid in LARGEST and not self.weights_only:
            # Scales are stored as float32; of subnormal ones hardly a digit is left, or nothing.
            right = isinstance(self.bound, float) and _SMALLEST_SCALE <= self.scale <= _LARGEST_SCALE
            require(right, "quantization.bound", self.bound, "a positive number, whose scale is a normal float32")
        else:
            require(self.bound is None, "quantization.bound", self.bound, "none: nothing is scaled")

    @property
    def scale(self) -> float:
        """Of the activations."""
        assert self.bound is not None, "of grids that are scaled only"
        return self.bound / LARGEST[self.grid]

    def __str__(self) -> str:
        """As tables name it."""
        return f"{self.grid} weights" if self.weights_only else self.grid


@dataclass(frozen=True)
class Quantization:
    """What the products of a decoder are rounded to."""

    products: Mapping[str, Product]
    """By name; those that are not here are float32."""
    table: str | None = None
    """SHA-256 of the calibration table that the bounds come from."""

    def __post_init__(self) -> None:
        """Takes a copy."""
        object.__setattr__(self, "products", dict(self.products))

    def check(self, model: ModelConfig) -> None:
        """Refuses products that the model does not have.

        Raises:
            ConfigError: names the first.
        """
        known = product_names(model)
        for name in self.products:
            require(name in known, "quantization.products", name, f"some of {', '.join(known)}")

    def without(self, names: Iterable[str]) -> Quantization:
        """The same with more products in float32."""
        kept = set(names)
        return dataclasses.replace(self, products={name: p for name, p in self.products.items() if name not in kept})
