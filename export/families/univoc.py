"""univoc: the UniversalVocoding architecture (Lorenzo-Trueba et al., 2019, as bshall implements it).

A two-layer bidirectional GRU over the mel's frames; then, for each sample, embedding of the previous label and the
frame's conditioning through one GRU and two fully connected layers to mu-law class logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wavernn_trt.export.config import ColumnGroup, LabelScale, ModelConfig
from wavernn_trt.export.families.samplers import CategoricalSampler
from wavernn_trt.export.families.wavernn import Conditioner, DecoderStep, GRUCell, WaveRNN


class UnivocConditioner(Conditioner):
    """Bidirectional GRU over all frames: cutting a mel changes every row."""

    def __init__(self, n_mels: int, conditioning_size: int) -> None:
        """Rows are twice ``conditioning_size`` wide."""
        super().__init__()
        self.rnn1 = nn.GRU(n_mels, conditioning_size, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, mel: Tensor) -> Tensor:
        rows, _ = self.rnn1(mel.transpose(1, 2))
        return rows  # type: ignore[no-any-return]


class UnivocStep(DecoderStep):
    """Embedding, GRU, two fully connected layers."""

    def __init__(self, outputs: int, embedding: int, conditioning: int, hidden: int, fc: int) -> None:
        """``conditioning`` is the width of a row."""
        super().__init__()
        self.embedding = nn.Embedding(outputs, embedding)
        self.rnn2 = GRUCell(embedding + conditioning, hidden)
        self.fc1 = nn.Linear(hidden, fc)
        self.fc2 = nn.Linear(fc, outputs)

    def forward(self, previous: Tensor, hidden: Tensor, conditioning: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([self.embedding(previous), conditioning], dim=1)
        state = self.rnn2(x, hidden[0])
        return self.fc2(torch.relu(self.fc1(state))), state.unsqueeze(0)


def univoc_from_state(
    state: Mapping[str, Tensor], temperature: float = 1.0, label_scale: LabelScale = "librosa"
) -> WaveRNN:
    """Returns the model of a univoc state dict (``checkpoint["model"]``); all sizes are read from its shapes."""
    outputs, embedding = state["embedding.weight"].shape
    hidden = state["rnn2.weight_hh_l0"].shape[1]
    fc = state["fc1.weight"].shape[0]
    conditioning_size = state["rnn1.weight_hh_l0"].shape[1]
    n_mels = state["rnn1.weight_ih_l0"].shape[1]
    config = ModelConfig(
        family="univoc",
        output="categorical",
        outputs=outputs,
        hidden_size=hidden,
        input_sizes=(embedding,),
        fc_sizes=(fc,),
        groups=(ColumnGroup("mel", 2 * conditioning_size, "held"),),
        mu_law=True,
        label_scale=label_scale,
        temperature=temperature,
    )
    conditioner = UnivocConditioner(n_mels, conditioning_size)
    step = UnivocStep(outputs, embedding, 2 * conditioning_size, hidden, fc)
    conditioner.load_state_dict({name: value for name, value in state.items() if name.startswith("rnn1.")})
    step.load_state_dict({name: value for name, value in state.items() if not name.startswith("rnn1.")})
    with torch.no_grad():
        step.fc2.weight.div_(temperature)
        step.fc2.bias.div_(temperature)
    return WaveRNN(config, conditioner, step, CategoricalSampler(outputs, label_feedback=True))
