"""univoc's network for training, over whole windows instead of single steps, and its checkpoints.

Checkpoints are written atomically, and read without executing code in them.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.checkpoints.checkpoint import CheckpointError, read_checkpoint
from wavernn_trt.scripts.training.corpus import AUDIO, Windows
from wavernn_trt.scripts.training.gru import gru_over_labels
from wavernn_trt.scripts.training.recipe import Recipe, RecipeError


class TrainingModel(nn.Module):
    """The network with univoc's tensor names and the recipe's sizes."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.rnn1 = nn.GRU(AUDIO.n_mels, recipe.conditioning_size, num_layers=2, batch_first=True, bidirectional=True)
        self.embedding = nn.Embedding(2**recipe.bits, recipe.embedding_dim)
        self.rnn2 = nn.GRU(recipe.embedding_dim + 2 * recipe.conditioning_size, recipe.rnn_size)
        self.fc1 = nn.Linear(recipe.rnn_size, recipe.fc_size)
        self.fc2 = nn.Linear(recipe.fc_size, 2**recipe.bits)

    def forward(self, windows: Windows, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [N * hop, B, classes] and the last state [B, H], given the state before [B, H]."""
        rows, _ = self.rnn1(windows.mel)
        rows = rows[torch.arange(len(rows), device=rows.device)[:, None], windows.frames]  # [B, N, columns]
        decode = self._on_gpu if rows.is_cuda else self._on_cpu
        states = decode(windows.previous, rows.transpose(0, 1), hidden)
        return self.fc2(torch.relu(self.fc1(states))), states[-1].detach().float()

    def _on_gpu(self, previous: Tensor, rows: Tensor, hidden: Tensor) -> Tensor:
        held = rows.repeat_interleave(AUDIO.hop_length, dim=0)
        states: Tensor = self.rnn2(torch.cat([self.embedding(previous), held], dim=2), hidden[None])[0]
        return states

    def _on_cpu(self, previous: Tensor, rows: Tensor, hidden: Tensor) -> Tensor:
        ((inputs, recurrent, input_bias, recurrent_bias),) = self.rnn2.all_weights
        of_labels, of_rows = inputs.split([self.embedding.embedding_dim, rows.shape[2]], dim=1)
        table = nn.functional.linear(self.embedding.weight, of_labels)
        conditioning = nn.functional.linear(rows, of_rows, input_bias)
        return gru_over_labels(table, previous, conditioning, hidden, recurrent, recurrent_bias)


def bits_a_sample(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean negative log2-likelihood of the labels [T, B] under the logits [T, B, classes]."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten()) / math.log(2)


def sized_like(state: Mapping[str, Tensor], recipe: Recipe) -> Recipe:
    """Returns the recipe with the sizes of a state dict.

    Raises:
        RecipeError: the tensors are not those of this network.
    """
    try:
        return _sizes(state, recipe)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError):
        raise RecipeError(
            f"expected the tensors of univoc's network with {AUDIO.n_mels} mels and a power of two classes"
        ) from None


def _sizes(state: Mapping[str, Tensor], recipe: Recipe) -> Recipe:
    sized = dataclasses.replace(
        recipe,
        conditioning_size=state["rnn1.weight_hh_l0"].shape[1],
        embedding_dim=state["embedding.weight"].shape[1],
        rnn_size=state["rnn2.weight_hh_l0"].shape[1],
        fc_size=state["fc1.weight"].shape[0],
        bits=state["embedding.weight"].shape[0].bit_length() - 1,
    )
    TrainingModel(sized).load_state_dict(dict(state))
    return sized


def widened(state: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Returns weights of the recipe's sizes that compute the same logits as narrower ones.

    The added units have random weights, and weights of zero towards the units that were there, which training changes.

    Args:
        state: weights with the same number of classes and sizes no larger than the recipe's.
        recipe: the sizes.

    Raises:
        RecipeError: the tensors are not those of this network, or one of its sizes is larger.
    """
    before = sized_like(state, recipe)
    for name in ("conditioning_size", "embedding_dim", "rnn_size", "fc_size"):
        if getattr(before, name) > getattr(recipe, name):
            raise RecipeError(f"{name}: found {getattr(recipe, name)}, expected at least {getattr(before, name)}")
    if before.bits != recipe.bits:
        raise RecipeError(f"bits: found {recipe.bits}, expected {before.bits}")
    wide: dict[str, Tensor] = TrainingModel(recipe).state_dict()
    old_axes, new_axes = _axes(before), _axes(recipe)
    for name, tensor in wide.items():
        rows, *columns = (_places(old, new) for old, new in zip(old_axes[name], new_axes[name], strict=True))
        old = state[name].to(tensor.dtype)
        if not columns:
            tensor[rows] = old
            continue
        if name != "embedding.weight":  # no sum over its columns
            tensor[rows] = 0
        tensor[rows[:, None], columns[0]] = old
    return wide


def _axes(recipe: Recipe) -> dict[str, tuple[list[int], ...]]:
    """Returns for each tensor and axis the sizes of its parts: gates, or the inputs that are concatenated."""
    c, e, h, f, classes = (
        recipe.conditioning_size,
        recipe.embedding_dim,
        recipe.rnn_size,
        recipe.fc_size,
        2**recipe.bits,
    )
    axes: dict[str, tuple[list[int], ...]] = {
        "embedding.weight": ([classes], [e]),
        "fc1.weight": ([f], [h]),
        "fc1.bias": ([f],),
        "fc2.weight": ([classes], [f]),
        "fc2.bias": ([classes],),
    }
    layers = [("rnn2", "l0", h, [e, c, c])]
    layers += [("rnn1", f"l0{way}", c, [AUDIO.n_mels]) for way in ("", "_reverse")]
    layers += [("rnn1", f"l1{way}", c, [c, c]) for way in ("", "_reverse")]
    for gru, layer, size, inputs in layers:
        axes[f"{gru}.weight_ih_{layer}"] = ([size] * 3, inputs)
        axes[f"{gru}.weight_hh_{layer}"] = ([size] * 3, [size])
        axes[f"{gru}.bias_ih_{layer}"] = axes[f"{gru}.bias_hh_{layer}"] = ([size] * 3,)
    return axes


def _places(old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Returns the positions of the old parts' entries in an axis where each part has grown at its end."""
    starts = itertools.accumulate(new, initial=0)
    return torch.cat([torch.arange(start, start + size) for start, size in zip(starts, old, strict=False)])


def config_yaml(recipe: Recipe) -> str:
    """Returns univoc's ``config.yaml``, with this recipe's own settings under ``waveform``."""
    a, r = AUDIO, recipe
    return (
        f"preprocess: {{sr: {a.sample_rate}, hop_length: {a.hop_length}, win_length: {a.win_length}, n_fft: {a.n_fft}, "
        f"n_mels: {a.n_mels}, fmin: {a.fmin:g}, mel_norm: {a.mel_norm}, pad_mode: {a.pad_mode}, "
        f"preemph: {a.preemphasis}, top_db: {-a.min_level_db:g}, ref_db: {a.reference_db:g}, "
        f"mulaw: {{bits: {r.bits}}}}}\n"
        f"model: {{n_mels: {a.n_mels}, conditioning_size: {r.conditioning_size}, embedding_dim: {r.embedding_dim}, "
        f"rnn_size: {r.rnn_size}, fc_size: {r.fc_size}, bits: {r.bits}, hop_length: {a.hop_length}, "
        f"sr: {a.sample_rate}}}\n"
        f"waveform: {{preemphasis: {a.waveform_preemphasis}, peak: {a.peak}}}\n"
    )


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of tensors and plain values.

    Raises:
        RecipeError: the file does not exist, or is not such a checkpoint.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises many kinds of errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RecipeError(f"{path}: not a checkpoint that can be read ({reason})") from None
    if not isinstance(content, dict) or not {"model", "step"} <= set(content):
        raise RecipeError(f"{path}: expected a dict with 'model' and 'step', as univoc and this script write it")
    return content


def load_training(path: Path) -> dict[str, Any]:
    """Reads a ``training.pt``.

    Raises:
        RecipeError: the file does not exist, or is another kind of checkpoint.
    """
    content = load(path)
    missing = {"weights", "optimizer", "scaler", "kept_out", "best", "seconds"} - set(content)
    if missing:
        raise RecipeError(f"{path}: found no {', '.join(sorted(missing))}; it cannot be resumed, but --init can use it")
    return content


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads the weights of a checkpoint or of a model directory.

    Raises:
        RecipeError: the path is neither.
    """
    if not path.is_dir():
        weights: dict[str, Tensor] = load(path)["model"]
        return weights
    try:
        return read_checkpoint(path).state
    except CheckpointError as error:
        raise RecipeError(str(error)) from None
