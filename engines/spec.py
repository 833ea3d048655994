"""Settings of an engine, and the GPUs and forms that support a quantised model's grids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wavernn_trt.engines.gpu import building_gpu
from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.export.quantization import LARGEST, Product, Quantization

Backend = Literal["tensorrt", "tensorrt_rtx"]
"""The Python module that builds and runs a plan."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)

Form = Literal["sequence", "cell"]
"""``sequence``: one WaveRNNSequencePlugin node for all steps. ``cell``: unrolled, one CustomGRUPlugin node per cell."""
FORMS: tuple[Form, ...] = get_args(Form)

Role = Literal["conditioner", "decoder"]
"""The two plans of an engine."""
ROLES: tuple[Role, ...] = get_args(Role)

RTX_TARGETS = (75, 80, 86, 89, 120, 121)
"""Compute capabilities (10 * major + minor) that TensorRT-RTX 1.7 builds for."""
MOST_STREAMS = 4096
LONGEST_MEL = 1 << 20
"""Frames; three hours of speech."""
FIRST_WITH_FP8 = 89
"""Lowest compute capability (10 * major + minor) on which TensorRT multiplies fp8 or reads fp8 weights."""
_STEPS, _STEPS_IN_EIGHT_BITS = 1024, 64


class EngineSpecError(ValueError):
    """An invalid setting: the name, the found value and the valid ones."""


@dataclass(frozen=True)
class Extent:
    """A size of a plan's inputs: one number, or a range with the number that it is optimised for."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise EngineSpecError(f"found {self}, expected 1 <= minimum <= optimum <= maximum")

    @property
    def static(self) -> bool:
        """Whether it is one number."""
        return self.minimum == self.maximum

    @classmethod
    def of(cls, text: str | int) -> Extent:
        """Parses ``N`` or ``MIN:OPT:MAX``.

        Raises:
            EngineSpecError: it is neither.
        """
        if not re.fullmatch(r"\d{1,9}(:\d{1,9}:\d{1,9})?", str(text)):
            raise EngineSpecError(f"found {text!r}, expected a number, or MIN:OPT:MAX as in 1:8:64")
        numbers = [int(word) for word in str(text).split(":")]
        return cls(*numbers) if len(numbers) == 3 else cls(*numbers * 3)

    def as_tuple(self) -> tuple[int, int, int]:
        """Returns minimum, optimum and maximum."""
        return self.minimum, self.optimum, self.maximum

    def __str__(self) -> str:
        return str(self.minimum) if self.static else f"{self.minimum}:{self.optimum}:{self.maximum}"


@dataclass(frozen=True)
class EngineSpec:
    """An engine: a conditioner and a decoder for one model, module and set of GPUs."""

    backend: Backend = "tensorrt_rtx"
    """Regular TensorRT builds on the GPU that will run the plan; TensorRT-RTX builds anywhere, for `targets`."""
    precision: Precision = "fp16"
    """Precision of the decoder's matrix products. Gates, softmax, sampling and the conditioner are float32."""
    batch: Extent = Extent(8, 8, 8)
    """Streams that are decoded together; every chunk computes all of them, also those not in use."""
    steps: int = 1024
    """Samples per chunk. Fewer samples reduce the latency of streams and raise the share of each chunk's overhead."""
    form: Form = "sequence"
    targets: tuple[int, ...] = ()
    """Compute capabilities (86 is 8.6) for TensorRT-RTX; empty for regular TensorRT, which targets the current GPU."""
    frames: Extent = Extent(2, 512, 4096)
    """Mel frames that the conditioner accepts."""

    def __post_init__(self) -> None:
        for name, known in (("backend", BACKENDS), ("precision", PRECISIONS), ("form", FORMS)):
            if getattr(self, name) not in known:
                raise EngineSpecError(f"{name}: found {getattr(self, name)!r}, expected one of {', '.join(known)}")
        if not 1 <= self.steps <= 1 << 16:
            raise EngineSpecError(f"steps: found {self.steps}, expected 1 to {1 << 16}")
        if self.batch.maximum > MOST_STREAMS:
            raise EngineSpecError(f"batch: found {self.batch}, expected at most {MOST_STREAMS}")
        if self.frames.maximum > LONGEST_MEL:
            raise EngineSpecError(f"frames: found {self.frames}, expected at most {LONGEST_MEL}")
        self._check_targets()

    def _check_targets(self) -> None:
        known = ", ".join(map(str, RTX_TARGETS))
        if self.backend == "tensorrt":
            if self.targets:
                raise EngineSpecError(
                    "targets: regular TensorRT builds for the GPU it runs on; leave them out, or use tensorrt_rtx"
                )
            return
        if not self.targets:
            raise EngineSpecError(f"targets: found none, expected some of {known}")
        if len(set(self.targets)) != len(self.targets) or list(self.targets) != sorted(self.targets):
            raise EngineSpecError(f"targets: found {self.targets}, expected each once, in rising order")
        for target in self.targets:
            if target not in RTX_TARGETS:
                hint = "; for an H100 or H200 build with regular TensorRT on it" if target == 90 else ""
                raise EngineSpecError(f"targets: TensorRT-RTX does not build for {target}, only for {known}{hint}")

    def of_role(self, role: Role) -> dict[str, Any]:
        """Returns the settings that a plan of this role depends on, as JSON values."""
        common = {"backend": self.backend, "targets": list(self.targets)}
        if role == "conditioner":
            return {**common, "frames": self.frames.as_tuple()}
        decoder = {"precision": self.precision, "batch": self.batch.as_tuple(), "steps": self.steps, "form": self.form}
        return {**common, **decoder}


def default_form(quantization: Quantization | None) -> Form:
    """Returns ``cell`` for eight-bit products, which the kernel of the form ``sequence`` does not have."""
    return "cell" if in_eight_bits(quantization) else "sequence"


def default_steps(form: Form, quantization: Quantization | None) -> int:
    """Returns the default samples per chunk; fewer for eight-bit products, whose builds grow faster than linearly."""
    return _STEPS_IN_EIGHT_BITS if form == "cell" and in_eight_bits(quantization) else _STEPS


def able_targets(targets: tuple[int, ...], form: Form, quantization: Quantization | None) -> tuple[int, ...]:
    """Returns the targets that support every grid of an engine of this form."""
    fp8 = form == "cell" and any(product.grid == "fp8" for product in _products(quantization))
    return tuple(target for target in targets if target >= FIRST_WITH_FP8 or not fp8)


def check_grids(spec: EngineSpec, quantization: Quantization | None) -> None:
    """Checks that all targets support the model's grids.

    Raises:
        EngineSpecError: the targets that do not, and the way out.
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
    """Returns a note for an engine that uses a quantised directory's weights without its eight-bit products."""
    if spec.form == "cell" or not in_eight_bits(quantization):
        return None
    return (
        f"form sequence: products run in {spec.precision} with the rounded weights, activations are not rounded; "
        "the form cell runs them in eight bits"
    )


def in_eight_bits(quantization: Quantization | None) -> bool:
    """Whether any product has both operands in eight bits, not only its weights."""
    return any(product.grid in LARGEST and not product.weights_only for product in _products(quantization))


def _products(quantization: Quantization | None) -> list[Product]:
    return [] if quantization is None else list(quantization.products.values())
