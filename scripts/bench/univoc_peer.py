"""univoc's own code, generating (``univoc.Vocoder.generate``, of the package ``univoc``)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from wavernn_trt.export import read_checkpoint
from wavernn_trt.scripts.bench.availability import InapplicableError
from wavernn_trt.scripts.bench.names import SUBJECTS
from wavernn_trt.scripts.bench.timings import Repeat, Timing, place_of_device
from wavernn_trt.scripts.bench.upstream_code import TeacherForced, load_module


class UnivocPeer:
    """A model's weights in univoc's class."""

    subject = SUBJECTS["univoc"]
    only: int | None = 1
    """Its generator turns every draw into one number."""

    def __init__(self, path: Path, threads: int, device: str) -> None:
        """Loads a model directory's weights, and compares what the class computes with the model.

        Args:
            path: the model directory.
            threads: of PyTorch on the CPU.
            device: as PyTorch calls it.

        Raises:
            UnavailableError: the package is not installed.
            PeerError: it computes something else.
        """
        torch.set_num_threads(threads)
        module = load_module("univoc", "model.py", unused=("importlib_resources", "omegaconf"))
        # Its last line asks for np.int, which numpy has had no longer since 1.24.
        module.np = SimpleNamespace(asarray=np.asarray, int=int)  # type: ignore[attr-defined]
        module.tqdm = functools.partial(module.tqdm, disable=True)  # type: ignore[attr-defined]
        checkpoint = read_checkpoint(path)
        self._audio, state = checkpoint.audio, dict(checkpoint.state)
        outputs, embedding = state["embedding.weight"].shape
        if outputs & (outputs - 1):
            raise InapplicableError(f"not measured: it counts classes in bits, this model has {outputs}")
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

    def turn(self, batch: int, seconds: float) -> tuple[Timing, Callable[[], Repeat]]:
        """See `Peer`."""
        frames = max(1, round(seconds * self._audio.sample_rate / self._audio.hop_length))
        mel = torch.zeros(1, frames, self._audio.n_mels, device=self._device)
        self._run(mel[:, :1])
        place = place_of_device(self._device)
        return Timing(self.subject, 1, frames * self._audio.hop_length, place=place), lambda: self._run(mel)

    @torch.no_grad()
    def _run(self, mel: torch.Tensor) -> Repeat:
        started = time.perf_counter()
        self._vocoder.generate(mel)
        return Repeat(time.perf_counter() - started)

    @torch.no_grad()
    def _check(self, forced: TeacherForced, outputs: int) -> None:
        labels = torch.cat([torch.tensor([outputs // 2]), forced.before])
        forced.compare(self.subject, self._vocoder(labels[None], forced.mel.T[None])[0])
