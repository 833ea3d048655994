"""Models of the published sizes with random weights: speed does not depend on the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STANDARD = {
    "univoc-896": "univoc as published: embedding 256, GRU 896, 1024 classes, 16 kHz",
    "fatchord-512": "fatchord as published: two GRUs of 512, 512 classes, 22.05 kHz",
    "fatchord-mol-512": "the same with a mixture of ten logistics",
}
"""Names for ``--random``."""


def export_random(name: str, folder: Path) -> Path:
    """Exports a random model; needs the extra ``export``.

    Args:
        name: one of `STANDARD`.
        folder: receives a checkpoint and the model directory.

    Returns:
        The model directory.
    """
    import torch

    from wavernn_trt.export import export, read_checkpoint

    torch.manual_seed(0)
    checkpoint = folder / f"{name}.pt"
    outputs = {"fatchord-512": 512, "fatchord-mol-512": 30}
    torch.save(
        fatchord_state(512, 512, outputs[name]) if name in outputs else univoc_state(896, 1024, 1024), checkpoint
    )
    preset = "fatchord" if name in outputs else "univoc-0.2"
    return export(read_checkpoint(checkpoint, preset=preset), folder / name, steps=16).directory.path


def univoc_state(hidden_size: int, fc_size: int, classes: int) -> dict[str, Tensor]:
    """Random weights of univoc's network, by its names."""
    import torch
    from torch import nn

    networks = {
        "rnn1": nn.GRU(80, 128, num_layers=2, bidirectional=True),
        "embedding": nn.Embedding(classes, 256),
        "rnn2": nn.GRU(256 + 2 * 128, hidden_size),
        "fc1": nn.Linear(hidden_size, fc_size),
        "fc2": nn.Linear(fc_size, classes),
    }
    with torch.no_grad():
        return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


def fatchord_state(hidden_size: int, fc_size: int, outputs: int) -> dict[str, Tensor]:
    """Random weights of fatchord's network, by its names."""
    import torch

    from wavernn_trt.export.families.fatchord import expected_shapes
    from wavernn_trt.export.families.fatchord_layout import FatchordLayout

    layout = FatchordLayout(
        n_mels=80,
        hidden_size=hidden_size,
        layers=2,
        fc_sizes=(fc_size, fc_size),
        outputs=outputs,
        factors=(5, 5, 11),
        pad=2,
        compute_size=128,
        aux_size=128,
        blocks=10,
        uses_aux=True,
    )
    state = {}
    for name, shape in expected_shapes(layout).items():
        if name.endswith("running_var"):
            state[name] = torch.ones(shape)
        elif "up_layers" in name:
            state[name] = torch.full(shape, 1.0 / shape[-1])  # a moving average, fatchord's initial value
        else:
            state[name] = torch.empty(shape).uniform_(-1, 1) / max(1, shape[-1]) ** 0.5
    return state
