"""The grids of a decoder's rounded matrix products: the ``quantization`` of a ``config.json``.

A product is named after its weights: ``recurrent_l`` of layer l, ``input_1`` of the second layer, ``fc_i``, ``output``.
Gates, embedding, biases, softmax, sampling and the conditioner are always float32.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from wavernn_trt.export.config import ModelConfig, require

Grid = Literal["fp16", "bf16", "int8", "fp8"]
"""``fp8`` is e4m3. ``int8`` and ``fp8`` are scaled: weights by one number per output channel, which maps the channel's
largest weight to the grid's largest; activations by one number."""
GRIDS: tuple[Grid, ...] = get_args(Grid)
LARGEST: dict[Grid, float] = {"int8": 127.0, "fp8": 448.0}
"""Largest used number of each scaled grid."""

_SMALLEST_SCALE, _LARGEST_SCALE = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""The normal numbers of float32."""


def product_names(model: ModelConfig) -> tuple[str, ...]:
    """Returns a decoder's matrix products in the order of a step."""
    recurrent = ["recurrent_0", *(("input_1", "recurrent_1") if model.layers == 2 else ())]
    return (*recurrent, *(f"fc_{i}" for i in range(len(model.fc_sizes))), "output")


def weight_name(product: str) -> str:
    """Returns the name of a product's weights in `wavernn_trt.export.operators.SequenceShape`."""
    base, _, number = product.partition("_")
    return f"{base}_weight_{number}" if number else f"{base}_weight"


def product_sizes(model: ModelConfig) -> dict[str, int]:
    """Returns the number of weights of each product, in the same order."""
    widths = (model.hidden_size, *model.fc_sizes, model.outputs)
    dense = [a * b for a, b in itertools.pairwise(widths)]
    sizes = [3 * model.hidden_size**2] * (2 * model.layers - 1) + dense
    return dict(zip(product_names(model), sizes, strict=True))


@dataclass(frozen=True)
class Product:
    """The rounding of one product's operands; sums are exact or float32."""

    grid: Grid
    bound: float | None = None
    """Magnitude at which activations are clipped: `LARGEST` times the scale. ``None`` where the grid has no scale, or
    where activations are not rounded."""
    weights_only: bool = False
    """Whether only the weights are rounded."""

    def __post_init__(self) -> None:
        require(self.grid in GRIDS, "quantization.grid", self.grid, f"one of {', '.join(GRIDS)}")
        require(isinstance(self.weights_only, bool), "quantization.weights_only", self.weights_only, "true or false")
        if self.grid in LARGEST and not self.weights_only:
            # Scales are stored as float32, where subnormal ones lose their digits.
            right = isinstance(self.bound, float) and _SMALLEST_SCALE <= self.scale <= _LARGEST_SCALE
            require(right, "quantization.bound", self.bound, "a positive number, whose scale is a normal float32")
        else:
            require(self.bound is None, "quantization.bound", self.bound, "none: nothing is scaled")

    @property
    def scale(self) -> float:
        """Scale of the activations."""
        assert self.bound is not None, "only scaled grids have a scale"
        return self.bound / LARGEST[self.grid]

    def __str__(self) -> str:
        return f"{self.grid} weights" if self.weights_only else self.grid


@dataclass(frozen=True)
class Quantization:
    """The rounding of a decoder's products."""

    products: Mapping[str, Product]
    """By name; all others are float32."""
    table: str | None = None
    """SHA-256 of the bounds' calibration table."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "products", dict(self.products))

    def check(self, model: ModelConfig) -> None:
        """Checks that the model has all of the products.

        Raises:
            ConfigError: the first that it does not have.
        """
        known = product_names(model)
        for name in self.products:
            require(name in known, "quantization.products", name, f"some of {', '.join(known)}")

    def without(self, names: Iterable[str]) -> Quantization:
        """Returns the same with more products in float32."""
        kept = set(names)
        return dataclasses.replace(self, products={name: p for name, p in self.products.items() if name not in kept})
