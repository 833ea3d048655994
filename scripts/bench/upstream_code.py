"""The projects' own modules, each loaded from its one file.

A package's ``__init__`` is not run: torchaudio's loads a native library that is tied to one release of PyTorch, and
generating needs none of it. What a file imports only for other purposes, and what is not installed, is an empty module
while it loads.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.availability import UnavailableError
from wavernn_trt.scripts.bench.peer import PeerError
from wavernn_trt.scripts.bench.speech import noise_mel

_FRAMES = 2
_TOLERANCE = 1e-4
"""Of logits in float32, as a share of the largest: over many steps, other orders of adding make some 1e-6."""


def load_module(package: str, file: str, unused: Sequence[str] = ()) -> ModuleType:
    """Loads one file of a package.

    Args:
        package: as it is imported.
        file: inside it.
        unused: modules that the file imports and generating does not need.

    Raises:
        UnavailableError: the package, or something that its file does need, is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UnavailableError(f"not measured: {package} is not installed (pip install --no-deps {package})")
    path = Path(next(iter(found.submodule_search_locations))) / file
    spec = importlib.util.spec_from_file_location(f"{package}_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UnavailableError(f"not measured: this release of {package} has no {file}")
    module = importlib.util.module_from_spec(spec)
    with _standing_in(unused):
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            raise UnavailableError(f"not measured: {package} needs {error.name or error}") from error
    return module


@contextmanager
def _standing_in(names: Sequence[str]) -> Iterator[None]:
    """Empty modules for those of ``names`` that are not installed, for as long as the context lasts."""
    absent = [name for name in names if name not in sys.modules and importlib.util.find_spec(name) is None]
    for name in absent:
        module = ModuleType(name)
        module.__getattr__ = lambda wanted: None  # type: ignore[method-assign]
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


class TeacherForced:
    """A short mel, the samples before each step, and the logits that the model gives for them."""

    def __init__(self, path: Path, threads: int) -> None:
        """Has ONNX Runtime compute them.

        Args:
            path: the model directory.
            threads: of the CPU.
        """
        with Vocoder.load(path, "onnxruntime", threads=threads) as vocoder:
            audio, model = vocoder.config.audio, vocoder.config.model
            mel = noise_mel(vocoder, 1.0)[:, :_FRAMES]
            labels = np.random.default_rng(0).integers(0, model.outputs, _FRAMES * audio.hop_length)
            self._logits = torch.from_numpy(vocoder.teacher_forced(mel, labels))  # [T, outputs]
        self.mel = torch.from_numpy(np.ascontiguousarray(mel))
        """[n_mels, frames]."""
        self.before = torch.from_numpy(labels)[:-1]
        """[T - 1]: the labels before each step but the first."""

    def compare(self, subject: str, logits: torch.Tensor) -> None:
        """Holds a peer's logits [T, outputs] against them.

        Raises:
            PeerError: they differ.
        """
        if logits.shape != self._logits.shape:
            found, expected = list(logits.shape), list(self._logits.shape)
            raise PeerError(f"{subject}: it gives logits of shape {found}, the model of {expected}")
        difference, most = float((logits - self._logits).abs().max()), float(self._logits.abs().max())
        if not difference <= _TOLERANCE * max(1.0, most):
            raise PeerError(
                f"{subject}: with the same weights and samples its logits differ from the model's by {difference:.2g}, "
                f"expected at most {_TOLERANCE * max(1.0, most):.2g}; leave it out with --peers"
            )
