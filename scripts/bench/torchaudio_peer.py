"""torchaudio's own code, generating (``torchaudio.models.WaveRNN.infer``); fatchord's network, its tensors renamed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

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
from wavernn_trt.scripts.bench.availability import InapplicableError
from wavernn_trt.scripts.bench.names import SUBJECTS
from wavernn_trt.scripts.bench.timings import Repeat, Timing, place_of_device
from wavernn_trt.scripts.bench.upstream_code import TeacherForced, load_module


class TorchaudioPeer:
    """A model's weights in torchaudio's class."""

    subject = SUBJECTS["torchaudio"]
    only: int | None = None

    def __init__(self, path: Path, threads: int, device: str) -> None:
        """Loads a model directory's weights, and compares what the class computes with the model.

        Args:
            path: the model directory.
            threads: of PyTorch on the CPU.
            device: as PyTorch calls it.

        Raises:
            UnavailableError: the package is not installed, or its class has no such sizes.
            PeerError: it computes something else.
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
        self._network.load_state_dict(_renamed(state, layout.blocks), strict=True)
        self._network.eval()
        self._check(TeacherForced(path, threads), layout)
        self._network.to(device)
        self._device = device

    def turn(self, batch: int, seconds: float) -> tuple[Timing, Callable[[], Repeat]]:
        """See `Peer`."""
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
        waveform = torch.cat([torch.zeros(1), values])  # what is fed: silence first
        mel = functional.pad(forced.mel, (layout.pad, layout.pad))
        forced.compare(self.subject, self._network(waveform[None, None], mel[None, None])[0, 0])


def _renamed(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    return {to_torchaudio_name(name, blocks): value for name, value in state.items()}


def _require_sizes(layout: FatchordLayout, hop_length: int) -> None:
    """Raises `InapplicableError` where its class cannot be given such a network."""
    known = (
        layout.layers == 2
        and layout.uses_aux
        and len(set(layout.fc_sizes)) == 1
        and layout.hop_length == hop_length
        and layout.aux_size % 4 == 0
        and layout.outputs & (layout.outputs - 1) == 0
    )
    if not known:
        raise InapplicableError(f"not measured: its class has no network of these sizes: {layout}")
