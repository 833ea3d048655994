"""The backend ``cuda`` as users have it: models loaded by `wavernn_trt.load`, beside ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.engines.gpu import driver_state
from wavernn_trt.export.operators import Precision
from wavernn_trt.export.probe_measures import displacements
from wavernn_trt.runtime.uniforms import SeededUniforms
from wavernn_trt.runtime.vocoder import Vocoder, load, shipped_voice
from wavernn_trt.scripts.gpu.tasks import MissingError, Outcome, Settings, Task

FRAMES = 40
"""Of a mel: half a second."""
TOGETHER = 32
REPEATS = 5
SEED = 1
DISPLACED = 1e-5
"""Of a label in float32, on average: how far its random number may lie outside of what draws it."""
LARGE = "univoc-896"
_SHIPPED = "shipped voice"


def tasks(settings: Settings) -> list[Task]:
    """The shipped voice first, then a model of the size that people train."""
    models = Models(settings.folder)
    found = []
    for precision in ("fp32", "fp16"):
        labels = functools.partial(_labels, models, _SHIPPED, precision)
        found.append(Task(f"{_SHIPPED} {precision}", "probe and labels", "", labels))
    found += _use(models, _SHIPPED)
    labels = functools.partial(_labels, models, LARGE, "fp32", probe=False)
    found.append(Task(f"{LARGE} fp32", "labels", "", labels))
    return [*found, *_use(models, LARGE)]


def _use(models: Models, model: str) -> list[Task]:
    checks: tuple[tuple[str, Callable[[Models, str], Outcome]], ...] = (
        (f"{TOGETHER} mels at once", _together),
        ("a stream", _stream),
        ("samples a second", _speed),
    )
    return [
        Task(f"{model} {models.precision}", name, "", functools.partial(check, models, model)) for name, check in checks
    ]


class Models:
    """Model directories and vocoders, each made when it is first needed; the last vocoder stays open."""

    frames, together, batch = FRAMES, TOGETHER, TOGETHER
    precision: Precision = "fp16"
    """Of all but the labels."""

    def __init__(self, folder: Path) -> None:
        """Makes nothing yet.

        Args:
            folder: of the run; a random model is written there.
        """
        self._folder = folder
        self._open: tuple[tuple[str, Precision], Vocoder] | None = None

    def directory(self, model: str) -> Path:
        """Where a model is."""
        if model == _SHIPPED:
            return shipped_voice()
        path = self._folder / "models" / model
        if not (path / "manifest.json").exists():
            from wavernn_trt.scripts.bench.models import export_random  # it imports torch

            path.parent.mkdir(exist_ok=True)
            path = export_random(model, path.parent)
        return path

    def vocoder(self, model: str, precision: Precision, *, probe: bool = False) -> Vocoder:
        """With the backend ``cuda``."""
        if (reason := driver_state().reason) is not None:
            raise MissingError(reason)
        key = (model, precision)
        if self._open is None or self._open[0] != key:
            if self._open is not None:
                self._open[1].close()
                self._open = None
            directory = self.directory(model)
            self._open = key, load(directory, "cuda", batch=self.batch, precision=precision, probe=probe)
        return self._open[1]

    def mels(self, number: int) -> list[NDArray[np.float32]]:
        """Pieces of the sample that is shipped, which a model of other features takes as well as any mel."""
        mel = np.load(shipped_voice().parent / "sample_mel.npy")
        starts = np.linspace(0, mel.shape[1] - self.frames, number).astype(int)
        return [np.ascontiguousarray(mel[:, start : start + self.frames]) for start in starts]


def _labels(models: Models, model: str, precision: Precision, *, probe: bool = True) -> Outcome:
    """Whether what is drawn is what ONNX Runtime's distribution draws, fed with the same labels."""
    vocoder = models.vocoder(model, precision, probe=probe)
    mel = models.mels(3)[1]
    found = vocoder.labels(mel, seed=SEED)
    with load(models.directory(model), "onnxruntime") as reference:
        own = reference.labels(mel, seed=SEED)
        logits = reference.teacher_forced(mel, found)
    config = vocoder.config.model
    away = float(displacements(config, logits, SeededUniforms(config, SEED).draw(len(found)), found).mean())
    same = int((found == own).cumprod().sum())
    text = f"{vocoder.engine}: the first {same} of {len(found)} labels equal; displaced by {away:.2g} on average"
    right = away <= DISPLACED or precision != "fp32"  # in low precision the probe is what decides
    numbers = {"equal_until": same, "labels": len(found), "displaced": away, "probed": probe}
    return Outcome("passed" if right else "failed", text, numbers)


def _together(models: Models, model: str) -> Outcome:
    """Many at once have the bits that each has alone."""
    vocoder, mels = models.vocoder(model, models.precision), models.mels(models.together)
    found = vocoder.vocode_batch(mels, seeds=range(len(mels)))
    for number in (0, len(mels) - 1):
        if not np.array_equal(vocoder.vocode(mels[number], seed=number), found[number]):
            return Outcome("failed", f"utterance {number} has other bits alone")
    return Outcome("passed", f"{len(found)} utterances, two of them the same alone")


def _stream(models: Models, model: str) -> Outcome:
    """A stream has the bits of the whole waveform; how soon it begins."""
    vocoder, mel = models.vocoder(model, models.precision), models.mels(2)[1]
    whole, pieces = vocoder.vocode(mel, seed=SEED), []
    started, first = time.perf_counter(), 0.0
    for piece in vocoder.stream(mel, seed=SEED):
        first = first or time.perf_counter() - started
        pieces.append(np.array(piece))
    if not np.array_equal(np.concatenate(pieces), whole):
        return Outcome("failed", "a stream has other bits than the whole waveform")
    return Outcome("passed", f"the first of it after {1e3 * first:.1f} ms", {"first_seconds": first})


def _speed(models: Models, model: str) -> Outcome:
    """From mels to waveforms, conditioning on the CPU included."""
    vocoder, mels = models.vocoder(model, models.precision), models.mels(models.together)
    values: dict[str, Any] = {}
    for name, chosen in (("one", mels[:1]), ("many", mels)):
        vocoder.vocode_batch(chosen)
        taken = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            samples = sum(len(waveform) for waveform in vocoder.vocode_batch(chosen))
            taken.append(samples / (time.perf_counter() - started))
        values[name] = float(np.median(taken))
    text = f"{values['one']:,.0f} samples/s of one utterance, {values['many']:,.0f} of {len(mels)} at once"
    return Outcome("noted", text, {"kind": "end to end", "model": model, **values})
