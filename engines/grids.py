"""Which GPUs multiply in which grid, and which form of engine makes use of it."""

from __future__ import annotations

from wavernn_trt.engines.plan_names import building_gpu
from wavernn_trt.engines.spec import EngineSpec, EngineSpecError, Form
from wavernn_trt.export.quantization import LARGEST, Product, Quantization

_STEPS, _STEPS_IN_EIGHT_BITS = 1024, 64
FIRST_WITH_FP8 = 89
"""Compute capability from which TensorRT multiplies fp8, or reads weights of it (10 * major + minor)."""


def default_form(quantization: Quantization | None) -> Form:
    """``cell`` where products run in eight bits: the kernel of the form ``sequence`` has none that do."""
    return "cell" if in_eight_bits(quantization) else "sequence"


def default_steps(form: Form, quantization: Quantization | None) -> int:
    """Of a chunk. Products outside of cells are twice the layers to build, and their builds grow beyond linearly."""
    return _STEPS_IN_EIGHT_BITS if form == "cell" and in_eight_bits(quantization) else _STEPS


def able_targets(targets: tuple[int, ...], form: Form, quantization: Quantization | None) -> tuple[int, ...]:
    """Those of the targets that have every grid that an engine of this form has."""
    fp8 = form == "cell" and any(product.grid == "fp8" for product in _products(quantization))
    return tuple(target for target in targets if target >= FIRST_WITH_FP8 or not fp8)


def check_grids(spec: EngineSpec, quantization: Quantization | None) -> None:
    """Refuses targets that lack a grid.

    Raises:
        EngineSpecError: names them, and the way out.
    """
    targets = spec.targets or tuple(device.sm for device in building_gpu())
    able = able_targets(targets, spec.form, quantization)
    if lacking := [str(target) for target in targets if target not in able]:
        multiplied = any(product.grid == "fp8" and not product.weights_only for product in _products(quantization))
        what = "products are fp8, which TensorRT multiplies" if multiplied else "weights are fp8, which TensorRT reads"
        raise EngineSpecError(
            f"targets: this directory's {what} in the form cell from compute capability {FIRST_WITH_FP8} on; found "
            f"{', '.join(lacking)}. Build the form sequence for those, which has the rounded weights, or quantise to "
            "int8"
        )


def describe_rounding(spec: EngineSpec, quantization: Quantization | None) -> str | None:
    """What to say of an engine that has a quantised directory's weights, and not its products."""
    if spec.form == "cell" or not in_eight_bits(quantization):
        return None
    return (
        f"form sequence: products run in {spec.precision} with the rounded weights, activations are not rounded; "
        "the form cell runs them in eight bits"
    )


def in_eight_bits(quantization: Quantization | None) -> bool:
    """Whether both operands of a product are, not its weights alone."""
    return any(product.grid in LARGEST and not product.weights_only for product in _products(quantization))


def _products(quantization: Quantization | None) -> list[Product]:
    return [] if quantization is None else list(quantization.products.values())
