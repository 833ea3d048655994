"""Which GPUs multiply in which grid, and which form of engine makes use of it."""

from __future__ import annotations

from wavernn_trt.engines.plan_names import building_gpu
from wavernn_trt.engines.spec import EngineSpec, EngineSpecError, Form
from wavernn_trt.export.quantization import LARGEST, Product, Quantization

_STEPS, _STEPS_IN_EIGHT_BITS = 1024, 64
FIRST_WITH_FP8 = 89
"""Compute capability from which TensorRT multiplies fp8 (10 * major + minor)."""


def default_form(quantization: Quantization | None) -> Form:
    """``cell`` where products run in eight bits: the kernel of the form ``sequence`` has none that do."""
    return "cell" if _scaled(quantization) else "sequence"


def default_steps(form: Form, quantization: Quantization | None) -> int:
    """Of a chunk. Products outside of cells are twice the layers to build, and their builds grow beyond linearly."""
    return _STEPS_IN_EIGHT_BITS if form == "cell" and _scaled(quantization) else _STEPS


def able_targets(targets: tuple[int, ...], form: Form, quantization: Quantization | None) -> tuple[int, ...]:
    """Those of the targets that have every grid that an engine of this form computes in."""
    return tuple(target for target in targets if target >= FIRST_WITH_FP8 or not _fp8(form, quantization))


def check_grids(spec: EngineSpec, quantization: Quantization | None) -> None:
    """Refuses targets that lack a grid.

    Raises:
        EngineSpecError: names them, and the way out.
    """
    targets = spec.targets or tuple(device.sm for device in building_gpu())
    able = able_targets(targets, spec.form, quantization)
    if lacking := [str(target) for target in targets if target not in able]:
        raise EngineSpecError(
            f"targets: this directory's products are fp8, which TensorRT multiplies from compute capability "
            f"{FIRST_WITH_FP8} on; found {', '.join(lacking)}. Quantise to int8 for those, or build the directory that "
            "this one was made from"
        )


def describe_rounding(spec: EngineSpec, quantization: Quantization | None) -> str | None:
    """What to say of an engine that has a quantised directory's weights, and not its products."""
    if spec.form == "cell" or not _scaled(quantization):
        return None
    return (
        f"form sequence: products run in {spec.precision} with the rounded weights, activations are not rounded; "
        "the form cell runs them in eight bits"
    )


def _fp8(form: Form, quantization: Quantization | None) -> bool:
    return form == "cell" and any(product.grid == "fp8" for product in _scaled(quantization))


def _scaled(quantization: Quantization | None) -> list[Product]:
    products = quantization.products.values() if quantization is not None else ()
    return [product for product in products if product.grid in LARGEST]
