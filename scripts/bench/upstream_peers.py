"""The projects' own code as peers: ``univoc.Vocoder.generate``, and ``torchaudio.models.WaveRNN.infer``.

Each class is loaded from its one file. The package's ``__init__`` is not run: torchaudio's loads a native library for
one release of PyTorch, which generation does not need. While a file loads, empty modules replace missing imports that
generation does not need. Before it is timed, each class is compared with the model, teacher-forced.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wavernn_trt.export import read_checkpoint
from wavernn_trt.export.families.fatchord_layout import (
    FatchordLayout,
    from_torchaudio_name,
    read_layout,
    to_torchaudio_name,
)
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.backends import InapplicableError, UnavailableError
from wavernn_trt.scripts.bench.speech import noise_mel
from wavernn_trt.scripts.bench.timing import SUBJECTS, PeerError, Repeat, Timing, Turn, place_of_device

_FRAMES = 2
_TOLERANCE = 1e-4
"""Largest error of float32 logits, as a share of the largest logit; other orders of summation cause about 1e-6."""


class UnivocPeer:
    """A model's weights in univoc's class."""

    subject = SUBJECTS["univoc"]
    only: int | None = 1
    """Its generator supports one stream."""

    def __init__(self, path: Path, threads: int, device: str) -> None:
        """Loads the weights of a model directory and compares the class with the model.

        Raises:
            UnavailableError: the package is not installed, or its class does not support the sizes.
            PeerError: the results differ.
        """
        torch.set_num_threads(threads)
        module = load_module("univoc", "model.py", unused=("importlib_resources", "omegaconf"))
        # Its last line uses np.int, which numpy 1.24 removed.
        module.np = SimpleNamespace(asarray=np.asarray, int=int)  # type: ignore[attr-defined]
        module.tqdm = functools.partial(module.tqdm, disable=True)  # type: ignore[attr-defined]
        checkpoint = read_checkpoint(path)
        self._audio, state = checkpoint.audio, dict(checkpoint.state)
        outputs, embedding = state["embedding.weight"].shape
        if outputs & (outputs - 1):
            raise InapplicableError(f"not measured: its classes are a power of two, this model has {outputs}")
        for name in ("fc2.weight", "fc2.bias"):
            state[name] = state[name] / checkpoint.model.config.temperature
        self._vocoder = module.Vocoder(
            n_mels=self._audio.n_mels,
            conditioning_size=state["rnn1.weight_hh_l0"].shape[1],
            embedding_dim=embedding,
            rnn_size=state["rnn2.weight_hh_l0"].shape[1],
            fc_size=state["fc1.weight"].shape[0],
            bits=outputs.bit_length() - 1,
            hop_length=self._audio.hop_length,
            sr=self._audio.sample_rate,
        )
        self._vocoder.load_state_dict(state, strict=True)
        self._vocoder.eval()
        self._check(TeacherForced(path, threads), outputs)
        self._vocoder.to(device)
        self._device = device

    def turn(self, batch: int, seconds: float) -> Turn:
        frames = max(1, round(seconds * self._audio.sample_rate / self._audio.hop_length))
        mel = torch.zeros(1, frames, self._audio.n_mels, device=self._device)
        self._run(mel[:, :1])
        place = place_of_device(self._device)
        return Timing(self.subject, 1, frames * self._audio.hop_length, place=place), lambda: self._run(mel)

    @torch.no_grad()
    def _run(self, mel: Tensor) -> Repeat:
        started = time.perf_counter()
        self._vocoder.generate(mel)
        return Repeat(time.perf_counter() - started)

    @torch.no_grad()
    def _check(self, forced: TeacherForced, outputs: int) -> None:
        labels = torch.cat([torch.tensor([outputs // 2]), forced.before])
        forced.compare(self.subject, self._vocoder(labels[None], forced.mel.T[None])[0])


class TorchaudioPeer:
    """A model's weights in torchaudio's class."""

    subject = SUBJECTS["torchaudio"]
    only: int | None = None

    def __init__(self, path: Path, threads: int, device: str) -> None:
        """Loads the weights of a model directory and compares the class with the model.

        Raises:
            UnavailableError: the package is not installed, or its class does not support the sizes.
            PeerError: the results differ.
        """
        torch.set_num_threads(threads)
        checkpoint = read_checkpoint(path)
        self._audio = checkpoint.audio
        state = {from_torchaudio_name(name): value for name, value in checkpoint.state.items() if name != "step"}
        for name in ("fc3.weight", "fc3.bias"):
            state[name] = state[name] / checkpoint.model.config.temperature
        layout = read_layout(state)
        _require_sizes(layout, self._audio.hop_length)
        module = load_module("torchaudio", "models/wavernn.py")
        self._network = module.WaveRNN(
            upsample_scales=list(layout.factors),
            n_classes=layout.outputs,
            hop_length=self._audio.hop_length,
            n_res_block=layout.blocks,
            n_rnn=layout.hidden_size,
            n_fc=layout.fc_sizes[0],
            kernel_size=2 * layout.pad + 1,
            n_freq=layout.n_mels,
            n_hidden=layout.compute_size,
            n_output=layout.aux_size,
        )
        state = {to_torchaudio_name(name, layout.blocks): value for name, value in state.items()}
        self._network.load_state_dict(state, strict=True)
        self._network.eval()
        self._check(TeacherForced(path, threads), layout)
        self._network.to(device)
        self._device = device

    def turn(self, batch: int, seconds: float) -> Turn:
        frames = max(1, round(seconds * self._audio.sample_rate / self._audio.hop_length))
        mel = torch.zeros(batch, self._audio.n_mels, frames, device=self._device)
        self._run(mel[:, :, :1])
        place = place_of_device(self._device)
        samples = batch * frames * self._audio.hop_length
        return Timing(self.subject, batch, samples, place=place), lambda: self._run(mel)

    @torch.inference_mode()
    def _run(self, mel: Tensor) -> Repeat:
        started = time.perf_counter()
        self._network.infer(mel)[0].cpu()
        return Repeat(time.perf_counter() - started)

    @torch.no_grad()
    def _check(self, forced: TeacherForced, layout: FatchordLayout) -> None:
        values = 2 * forced.before.float() / (layout.outputs - 1) - 1
        waveform = torch.cat([torch.zeros(1), values])  # the input of each step: silence first
        mel = functional.pad(forced.mel, (layout.pad, layout.pad))
        forced.compare(self.subject, self._network(waveform[None, None], mel[None, None])[0, 0])


def _require_sizes(layout: FatchordLayout, hop_length: int) -> None:
    """Raises `InapplicableError` if torchaudio's class does not support the sizes."""
    supported = (
        layout.layers == 2
        and layout.uses_aux
        and len(set(layout.fc_sizes)) == 1
        and layout.hop_length == hop_length
        and layout.aux_size % 4 == 0
        and layout.outputs & (layout.outputs - 1) == 0
    )
    if not supported:
        raise InapplicableError(f"not measured: its class has no network of these sizes: {layout}")


class TeacherForced:
    """A short mel, the samples before each step, and the model's logits for them."""

    def __init__(self, path: Path, threads: int) -> None:
        """Computes the logits with ONNX Runtime."""
        with Vocoder.load(path, "onnxruntime", threads=threads) as vocoder:
            audio, model = vocoder.config.audio, vocoder.config.model
            mel = noise_mel(vocoder, 1.0)[:, :_FRAMES]
            labels = np.random.default_rng(0).integers(0, model.outputs, _FRAMES * audio.hop_length)
            self._logits = torch.from_numpy(vocoder.teacher_forced(mel, labels))  # [T, outputs]
        self.mel = torch.from_numpy(np.ascontiguousarray(mel))
        """[n_mels, frames]."""
        self.before = torch.from_numpy(labels)[:-1]
        """[T - 1]: the labels before each step but the first."""

    def compare(self, subject: str, logits: Tensor) -> None:
        """Compares a peer's logits [T, outputs] with the model's; raises `PeerError` if they differ."""
        if logits.shape != self._logits.shape:
            found, expected = list(logits.shape), list(self._logits.shape)
            raise PeerError(f"{subject}: found logits of shape {found}, expected the model's, {expected}")
        difference, most = float((logits - self._logits).abs().max()), float(self._logits.abs().max())
        if not difference <= _TOLERANCE * max(1.0, most):
            raise PeerError(
                f"{subject}: with the same weights and samples its logits differ from the model's by {difference:.2g}, "
                f"expected at most {_TOLERANCE * max(1.0, most):.2g}; leave it out with --peers"
            )


def load_module(package: str, file: str, unused: Sequence[str] = ()) -> ModuleType:
    """Loads one file of a package.

    Args:
        package: its import name.
        file: path in the package.
        unused: modules that the file imports but generation does not need.

    Raises:
        UnavailableError: the package, or a module that the file needs, is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UnavailableError(f"not measured: {package} is not installed (pip install --no-deps {package})")
    path = Path(next(iter(found.submodule_search_locations))) / file
    spec = importlib.util.spec_from_file_location(f"{package}_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UnavailableError(f"not measured: this release of {package} has no {file}")
    module = importlib.util.module_from_spec(spec)
    with _empty_modules(unused):
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            raise UnavailableError(f"not measured: {package} needs {error.name or error}") from error
    return module


@contextmanager
def _empty_modules(names: Sequence[str]) -> Iterator[None]:
    """Within the context, empty modules replace those of ``names`` that are not installed."""
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
