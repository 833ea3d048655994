"""What an engine is to be: everything that a build is asked for, and that tells one plan from another."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wavernn_trt.export.operators import PRECISIONS, Precision

Backend = Literal["tensorrt", "tensorrt_rtx"]
"""The Python module that builds and runs a plan."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)

Form = Literal["sequence", "cell"]
"""``sequence``: one WaveRNNSequencePlugin node for all steps. ``cell``: unrolled, one CustomGRUPlugin node a cell."""
FORMS: tuple[Form, ...] = get_args(Form)

Role = Literal["conditioner", "decoder"]
"""An engine is two plans."""
ROLES: tuple[Role, ...] = get_args(Role)

RTX_TARGETS = (75, 80, 86, 89, 120, 121)
"""Compute capabilities (10 * major + minor) that TensorRT-RTX 1.7 builds for."""
MOST_STREAMS = 4096
LONGEST_MEL = 1 << 20
"""Frames; three hours of speech."""


class EngineSpecError(ValueError):
    """Something asked for that no engine can be: names it, and what can be asked for."""


@dataclass(frozen=True)
class Extent:
    """A size that a plan takes: one number, or a range with the number that it is tuned for."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        """Refuses what is no range.

        Raises:
            EngineSpecError: not 1 <= minimum <= optimum <= maximum.
        """
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise EngineSpecError(f"found {self}, expected 1 <= minimum <= optimum <= maximum")

    @property
    def static(self) -> bool:
        """Whether it is one number."""
        return self.minimum == self.maximum

    @classmethod
    def of(cls, text: str | int) -> Extent:
        """From ``N`` or ``MIN:OPT:MAX``.

        Raises:
            EngineSpecError: neither.
        """
        if not re.fullmatch(r"\d{1,9}(:\d{1,9}:\d{1,9})?", str(text)):
            raise EngineSpecError(f"found {text!r}, expected a number, or MIN:OPT:MAX as in 1:8:64")
        numbers = [int(word) for word in str(text).split(":")]
        return cls(*numbers) if len(numbers) == 3 else cls(*numbers * 3)

    def as_tuple(self) -> tuple[int, int, int]:
        """Minimum, optimum, maximum."""
        return self.minimum, self.optimum, self.maximum

    def __str__(self) -> str:
        """As `of` reads it."""
        return str(self.minimum) if self.static else f"{self.minimum}:{self.optimum}:{self.maximum}"


@dataclass(frozen=True)
class EngineSpec:
    """An engine: a conditioner and a decoder for one model, module and set of GPUs."""

    backend: Backend = "tensorrt_rtx"
    """Regular TensorRT builds on the GPU that will run the plan; TensorRT-RTX builds anywhere, for targets."""
    precision: Precision = "fp16"
    """Of the decoder's matrix products. Gates, softmax and sampling are float32, and so is the conditioner."""
    batch: Extent = Extent(8, 8, 8)
    """Streams that are decoded together; every chunk computes all of them, however many are in use."""
    steps: int = 1024
    """Samples of a chunk. Fewer make streaming smoother, and each chunk's overhead count for more."""
    form: Form = "sequence"
    """See `Form`."""
    targets: tuple[int, ...] = ()
    """Compute capabilities (86 is 8.6) for TensorRT-RTX; none for regular TensorRT, whose target is the current GPU."""
    frames: Extent = Extent(2, 512, 4096)
    """Frames of mel that the conditioner takes."""

    def __post_init__(self) -> None:
        """Refuses what cannot be built.

        Raises:
            EngineSpecError: which field, what was found, and what is expected.
        """
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
        """The settings that one of the two plans depends on, as JSON values."""
        common = {"backend": self.backend, "targets": list(self.targets)}
        if role == "conditioner":
            return {**common, "frames": self.frames.as_tuple()}
        decoder = {"precision": self.precision, "batch": self.batch.as_tuple(), "steps": self.steps, "form": self.form}
        return {**common, **decoder}

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EngineSpec:
        """From what `to_json` gave."""
        extents = {name: Extent(**values[name]) for name in ("batch", "frames")}
        return cls(**{**values, **extents, "targets": tuple(values["targets"])})
