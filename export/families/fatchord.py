"""fatchord: the layout that fatchord/WaveRNN, torchaudio, Coqui and turian share.

A residual network over the mel's frames and an upsampled mel condition, for each sample, a dense layer, two recurrent
layers with skip connections and three fully connected layers (turian: one and two) to class logits or to the
parameters of a mixture of logistics or of a Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from wavernn_trt.export.config import ColumnGroup, Expansion, Family, ModelConfig, Output
from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.families.fatchord_layout import FatchordLayout, from_torchaudio_name, read_layout
from wavernn_trt.export.families.samplers import CategoricalSampler, GaussianSampler, LogisticMixtureSampler
from wavernn_trt.export.families.upsampling import periodic_operator
from wavernn_trt.export.families.wavernn import Conditioner, DecoderStep, GRUCell, Sampler, WaveRNN

INTERPOLATED_MEL_SCALE = 0.045
"""Coqui's factor of the mel where frames are interpolated, without an upsampling network."""
_RESNET = "upsample.resnet."


class ResBlock(nn.Module):
    """Two pointwise convolutions with batch normalisation, beside a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, channels, 1, bias=False)
        self.batch_norm1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 1, bias=False)
        self.batch_norm2 = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, N] -> [B, channels, N]; the sum is not rectified."""
        inner = torch.relu(self.batch_norm1(self.conv1(x)))
        return torch.add(x, self.batch_norm2(self.conv2(inner)))


class MelResNet(nn.Module):
    """A convolution over ``2 * pad + 1`` frames, then residual blocks frame by frame."""

    def __init__(self, n_mels: int, channels: int, outputs: int, blocks: int, pad: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv1d(n_mels, channels, 2 * pad + 1, bias=False)
        self.batch_norm = nn.BatchNorm1d(channels)
        self.layers = nn.ModuleList(ResBlock(channels) for _ in range(blocks))
        self.conv_out = nn.Conv1d(channels, outputs, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """Padded mel [B, n_mels, N + 2 * pad] -> [B, outputs, N]."""
        x = torch.relu(self.batch_norm(self.conv_in(mel)))
        for block in self.layers:
            x = block(x)
        return self.conv_out(x)  # type: ignore[no-any-return]


class FatchordConditioner(Conditioner):
    """Columns: the mel itself, then the residual network's output. Rows outside the utterance are zero."""

    def __init__(self, layout: FatchordLayout, margin: int, mel_scale: float) -> None:
        """``mel_scale`` multiplies the mel's columns, but not the residual network's input."""
        super().__init__()
        self.pad = layout.pad
        self.margin = margin
        self.mel_scale = mel_scale
        self.resnet: MelResNet | None = None
        if layout.uses_aux:
            self.resnet = MelResNet(layout.n_mels, layout.compute_size, layout.aux_size, layout.blocks, layout.pad)

    def forward(self, mel: Tensor) -> Tensor:
        columns = mel if self.mel_scale == 1.0 else mel * self.mel_scale
        if self.resnet is not None:
            aux = self.resnet(functional.pad(mel, (self.pad, self.pad)))  # [B, aux, N]
            columns = torch.cat([columns, aux], dim=1)
        return functional.pad(columns, (self.margin, self.margin)).transpose(1, 2)


class FatchordStep(DecoderStep):
    """``I``, recurrent layers with skip connections, rectified fully connected layers, logits."""

    def __init__(self, layout: FatchordLayout) -> None:
        """Makes the layers with the names of a checkpoint."""
        super().__init__()
        hidden, part, fc = layout.hidden_size, layout.part, layout.fc_sizes
        self.n_mels = layout.n_mels
        self.first_part = layout.first_part
        self.part = part
        self.I = nn.Linear(1 + layout.n_mels + layout.first_part, hidden)
        self.rnn1 = GRUCell(hidden, hidden)
        self.rnn2 = GRUCell(hidden + part, hidden) if layout.layers == 2 else None
        self.fc1 = nn.Linear(hidden + part, fc[0])
        self.fc2 = nn.Linear(fc[0] + part, fc[1]) if layout.layers == 2 else None
        self.fc3 = nn.Linear(fc[-1], layout.outputs)

    def forward(self, previous: Tensor, hidden: Tensor, conditioning: Tensor) -> tuple[Tensor, Tensor]:
        inputs = [previous.unsqueeze(1), conditioning[:, : self.n_mels]]
        if self.first_part:
            inputs.append(conditioning[:, self.n_mels : self.n_mels + self.first_part])
        x = self.I(torch.cat(inputs, dim=1))
        state = self.rnn1(x, hidden[0])
        states = [state]
        x = x + state
        used = 1
        if self.rnn2 is not None:
            state = self.rnn2(self._with_aux(x, conditioning, used), hidden[1])
            states.append(state)
            x = x + state
            used += 1
        x = torch.relu(self.fc1(self._with_aux(x, conditioning, used)))
        if self.fc2 is not None:
            x = torch.relu(self.fc2(self._with_aux(x, conditioning, used + 1)))
        return self.fc3(x), torch.stack(states)

    def _with_aux(self, x: Tensor, conditioning: Tensor, index: int) -> Tensor:
        if not self.part:
            return x
        start = self.n_mels + index * self.part
        return torch.cat([x, conditioning[:, start : start + self.part]], dim=1)


def expected_shapes(layout: FatchordLayout) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of a network with these sizes, by name."""
    with torch.device("meta"):
        step = FatchordStep(layout)
    shapes = {name: tuple(tensor.shape) for name, tensor in step.state_dict().items()}
    for i, factor in enumerate(layout.factors):
        shapes[f"upsample.up_layers.{2 * i + 1}.weight"] = (1, 1, 1, 2 * factor + 1)
    if layout.pad:
        with torch.device("meta"):
            resnet = MelResNet(layout.n_mels, layout.compute_size, layout.aux_size, layout.blocks, layout.pad)
        inner = {f"{_RESNET}{name}": tuple(tensor.shape) for name, tensor in resnet.state_dict().items()}
        shapes |= {name: shape for name, shape in inner.items() if not name.endswith(".num_batches_tracked")}
    return shapes


def fatchord_from_state(
    state: Mapping[str, Tensor],
    family: Family,
    output: Output,
    mu_law: bool = False,
    temperature: float = 1.0,
    amplitude_feedback: bool = False,
) -> WaveRNN:
    """Returns the model of a state dict in fatchord's layout; all sizes are read from its shapes.

    Args:
        state: float32 weights, under fatchord's or torchaudio's names.
        family: the checkpoint's family.
        output: what the last layer's outputs mean.
        mu_law: whether classes are companded amplitudes.
        temperature: divides the logits; for classes only.
        amplitude_feedback: see `ModelConfig`.

    Raises:
        CheckpointError: sizes that no member of the layout has, or a temperature that cannot be applied.
    """
    if temperature != 1.0 and output != "categorical":
        raise CheckpointError(
            f"temperature: found {temperature} for a {output} output, expected 1; only class logits can be divided"
        )
    state = {from_torchaudio_name(name): value for name, value in state.items()} if family == "torchaudio" else state
    layout = read_layout(state)
    upsampling, margin = None, layout.pad
    if layout.factors:
        kernels = [state[f"upsample.up_layers.{2 * i + 1}.weight"] for i in range(len(layout.factors))]
        # Without a residual network the padding is unknown; one frame is the strictest assumption.
        upsampling = periodic_operator(kernels, max(1, layout.pad))
        margin = upsampling.shape[1] // 2
    config = ModelConfig(
        family=family,
        output=output,
        outputs=layout.outputs,
        hidden_size=layout.hidden_size,
        input_sizes=(layout.hidden_size,) * layout.layers,
        fc_sizes=layout.fc_sizes,
        groups=_groups(layout, "kernel" if layout.factors else "linear"),
        margin=margin,
        mu_law=mu_law,
        amplitude_feedback=amplitude_feedback,
        temperature=temperature,
    )
    conditioner = FatchordConditioner(layout, margin, 1.0 if layout.factors else INTERPOLATED_MEL_SCALE)
    step = FatchordStep(layout)
    if conditioner.resnet is not None:
        conditioner.resnet.load_state_dict(
            {name.removeprefix(_RESNET): value for name, value in state.items() if name.startswith(_RESNET)}
        )
    step.load_state_dict({name: value for name, value in state.items() if not name.startswith("upsample.")})
    with torch.no_grad():
        step.fc3.weight.div_(temperature)
        step.fc3.bias.div_(temperature)
    return WaveRNN(config, conditioner, step, _sampler(config), upsampling)


def _groups(layout: FatchordLayout, mel: Expansion) -> tuple[ColumnGroup, ...]:
    groups = [ColumnGroup("mel", layout.n_mels, mel)]
    if layout.uses_aux:
        groups.append(ColumnGroup("aux", layout.aux_columns, "held" if mel == "kernel" else "linear"))
    return tuple(groups)


def _sampler(model: ModelConfig) -> Sampler:
    if model.output == "logistic_mixture":
        return LogisticMixtureSampler()
    if model.output == "gaussian":
        return GaussianSampler()
    return CategoricalSampler(model.outputs, label_feedback=False, amplitude_feedback=model.amplitude_feedback)
