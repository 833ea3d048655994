"""Export of the acoustic model to ONNX, with weights in half the size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from wavernn_trt.export.acoustic.directory import (
    ENCODER,
    FRAMES,
    AcousticConfig,
    AcousticDirectory,
    open_acoustic_directory,
    write_acoustic_config,
)
from wavernn_trt.export.acoustic.network import AcousticNetwork
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.model_directory import write_manifest
from wavernn_trt.export.new_directory import new_directory
from wavernn_trt.export.step_graph import export_module

_UNVOICED = 0.1
"""Share of voiced frames up to which a phoneme has no pitch."""
_LARGE = 256
"""Elements from which a tensor of weights is stored as float16."""


class EncoderGraph(nn.Module):
    """The encoder of one sentence, with f0 in Hz and the share of voiced frames as outputs."""

    def __init__(self, network: AcousticNetwork, scales: dict[str, float]) -> None:
        super().__init__()
        self.encoder, self.scales = network.encoder, scales

    def forward(self, symbols: Tensor) -> tuple[Tensor, ...]:
        """Maps int64 [N + 2 * encoder_margin] to the outputs of ``encoder.onnx``, with N rows each."""
        hidden, prosody = self.encoder(symbols[None])
        voicing = torch.sigmoid(prosody.voicing[0])
        pitch = prosody.pitch[0] * (voicing > _UNVOICED)
        f0 = torch.exp(pitch * self.scales["pitch_deviation"] + self.scales["pitch_mean"])
        frames = torch.expm1(prosody.log_duration[0])
        return hidden[0].T, frames, pitch, f0, voicing, prosody.energy[0]


class FramesGraph(nn.Module):
    """The contour network and the decoder of consecutive frames of one sentence."""

    def __init__(self, network: AcousticNetwork, scales: dict[str, float], audio: AudioConfig) -> None:
        super().__init__()
        self.contour, self.decoder, self.scales = network.contour, network.decoder, scales
        self.inside = network.sizes.hidden
        self.margin, self.reach = network.sizes.contour_margin, network.sizes.decoder_margin
        self.low, self.high = audio.mel_range

    def forward(self, frames: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Computes a mel and its f0.

        Args:
            frames: float [T + 2 * frame_margin, hidden + FRAME_FEATURES], zeros outside of the sentence.
            factor: float [T + 2 * frame_margin], of f0.

        Returns:
            A mel in the model's range, float [n_mels, T], and f0 in Hz, float [T], 0 where unvoiced.
        """
        rows = frames.T[None]
        pitch, voicing = self.contour(rows)
        rows = rows[:, :, self.margin : rows.shape[2] - self.margin]
        f0 = (
            torch.exp(pitch * self.scales["pitch_deviation"] + self.scales["pitch_mean"])
            * factor[None, self.margin : factor.shape[0] - self.margin]
        )
        voiced = (voicing > 0).float() * rows[:, self.inside]
        mel = self.decoder(rows, f0, voiced)[0].clamp(0, 1)
        sounding = (f0 * voiced)[0]
        return self.low + (self.high - self.low) * mel, sounding[self.reach : sounding.shape[0] - self.reach]


def export_acoustic_model(
    checkpoint: dict[str, Any], audio: AudioConfig, out_dir: Path, source: dict[str, Any], *, overwrite: bool = False
) -> AcousticDirectory:
    """Writes an acoustic model's directory.

    Args:
        checkpoint: content of ``acoustic.pt``.
        audio: settings of the mels that it was trained on.
        out_dir: the directory to make. It appears whole or not at all.
        source: what the weights are trained on and their licence.
        overwrite: replace ``out_dir`` if it is a model directory.

    Raises:
        ModelDirectoryError: ``out_dir`` exists and may not be replaced.
    """
    network = AcousticNetwork.of(checkpoint)
    sizes, scales = network.sizes, checkpoint["scales"]
    margin = sizes.contour_margin + sizes.decoder_margin
    symbols = [symbol for symbol, _ in sorted(checkpoint["symbols"].items(), key=lambda one: one[1])]
    config = AcousticConfig(
        "en-us",
        tuple(symbols),
        sizes.hidden,
        sizes.encoder_margin,
        margin,
        scales["energy_deviation"],
    )
    count, inputs = torch.export.Dim("symbols", min=2), torch.export.Dim("inputs", min=2)
    phonemes = torch.zeros(10 + 2 * sizes.encoder_margin, dtype=torch.int64)
    frames, factor = torch.zeros(10 + 2 * margin, network.frame_width), torch.ones(10 + 2 * margin)
    encoder = export_module(
        EncoderGraph(network, scales).eval(),
        (phonemes,),
        ["symbols"],
        ["hidden", "durations", "pitch", "f0", "voicing", "energy"],
        ({0: count},),
    )
    decoder = export_module(
        FramesGraph(network, scales, audio).eval(),
        (frames, factor),
        ["frames", "factor"],
        ["mel", "sounding"],
        ({0: inputs}, {0: inputs}),
    )
    with new_directory(out_dir, overwrite=overwrite) as building:
        for name, graph in ((ENCODER, encoder), (FRAMES, decoder)):
            onnx.save(in_half_the_size(to_model(graph)), building / name)
        write_acoustic_config(building, config, audio, source)
        write_manifest(building)
    return open_acoustic_directory(out_dir)


def in_half_the_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rounds large weights to float16; the graph converts them to float32, which ONNX Runtime does once, at load."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= _LARGE:
            name = f"{tensor.name}.float16"
            casts.append(onnx.helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model
