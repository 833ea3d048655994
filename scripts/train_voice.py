"""Trains a univoc-layout WaveRNN on a folder of speech: `python -m wavernn_trt.scripts.train_voice --help`.

Each row of a batch walks through a recording, a few frames at a time, and hands its recurrent state on, so that
training meets the states that synthesis will. The loss is the cross entropy of the next label given the true ones
before it (teacher-forced), in bits a sample. What is saved is the moving average of the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import torch
except ModuleNotFoundError:
    sys.exit("train_voice needs PyTorch: pip install '.[export]' in a clone of the project")
from torch import Tensor, nn
from tqdm import tqdm

from wavernn_trt.scripts.arguments import positive_integer
from wavernn_trt.scripts.voice_corpus import (
    AUDIO,
    Clips,
    CorpusError,
    Recording,
    altered,
    batches,
    prepare,
    read_folder,
    split,
    window_of,
)


class RecipeError(ValueError):
    """An option that has to change: says what was found and what was expected."""


@dataclass(frozen=True)
class Recipe:
    """Sizes of the network and how it is trained."""

    conditioning_size: int = 64
    """Units of the bidirectional GRU over the mel, each way."""
    embedding_dim: int = 64
    """Columns of the label embedding."""
    rnn_size: int = 256
    """Units of the GRU that runs once a sample."""
    fc_size: int = 192
    """Units of the layer between the GRU and the logits."""
    bits: int = 8
    """Bits of a mu-law label."""
    rows: int = 64
    """Recordings walked through at the same time."""
    frames: int = 4
    """Frames of a step's window; gradients reach back this far, the state further."""
    context: int = 16
    """Frames on each side of the window that the bidirectional GRU also sees; in synthesis it sees all."""
    learning_rate: float = 4e-4
    """The highest, after the warm-up; a cosine takes it to zero at the end of the budget."""
    warm_up: float = 0.02
    """Share of the budget during which the learning rate rises."""
    weight_decay: float = 0.01
    """AdamW's."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    ema_decay: float = 0.999
    """Of the average over updates of the weights, which is what is validated and saved."""
    variants: int = 11
    """Altered copies of each recording, so that a small corpus is not learnt by heart; 0 is none."""
    bfloat16: bool = True
    """Whether matrix products are computed in bfloat16; validation never is."""
    validate_every: int = 400
    """Updates between validations, each of which also writes the checkpoints."""
    minutes: float = 100.0
    """Budget of the whole training; the learning rate reaches zero at its end."""
    max_updates: int | None = None
    """Ends the training, and its schedule, earlier where that comes first."""
    seed: int = 0
    """Of the first weights, of the variants and of their order."""

    def __post_init__(self) -> None:
        """Refuses numbers that nothing can be trained with."""
        for name in ("conditioning_size", "embedding_dim", "rnn_size", "fc_size", "rows", "frames", "validate_every"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected a positive integer")
        for name in ("minutes", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected a positive number")
        for name in ("variants", "seed"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected an integer from 0 on")
        if self.max_updates is not None and self.max_updates < 1:
            raise RecipeError(f"max_updates: found {self.max_updates}, expected a positive integer")


class TrainingModel(nn.Module):
    """univoc's network under univoc's tensor names, over whole sequences instead of step by step."""

    def __init__(self, recipe: Recipe) -> None:
        """Layer widths from the recipe."""
        super().__init__()
        self.rnn1 = nn.GRU(AUDIO.n_mels, recipe.conditioning_size, num_layers=2, batch_first=True, bidirectional=True)
        self.embedding = nn.Embedding(2**recipe.bits, recipe.embedding_dim)
        self.rnn2 = nn.GRU(recipe.embedding_dim + 2 * recipe.conditioning_size, recipe.rnn_size, batch_first=True)
        self.fc1 = nn.Linear(recipe.rnn_size, recipe.fc_size)
        self.fc2 = nn.Linear(recipe.fc_size, 2**recipe.bits)

    def forward(self, mel: Tensor, window: Tensor, previous: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, N * hop, classes] and the last state [1, B, H].

        Args:
            mel: [B, frames with context, n_mels].
            window: int64 [B, N], which of those frames condition the samples.
            previous: int64 [B, N * hop], the label before each.
            hidden: [1, B, H], the state before the first.
        """
        rows, _ = self.rnn1(mel)
        rows = rows[torch.arange(len(rows))[:, None], window]  # [B, N, 2 * conditioning_size]
        conditioning = rows.repeat_interleave(AUDIO.hop_length, dim=1)
        states, last = self.rnn2(torch.cat([self.embedding(previous), conditioning], dim=2), hidden)
        return self.fc2(torch.relu(self.fc1(states))), last


def bits_a_sample(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log2-likelihood of the labels."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten()) / math.log(2)


@torch.no_grad()
def validate(model: TrainingModel, recordings: list[Recording], recipe: Recipe, seconds: float = 0.5) -> float:
    """Bits a sample over whole recordings in float32, cut into pieces that start with an empty state."""
    frames = int(seconds * AUDIO.sample_rate / AUDIO.hop_length)
    pieces = [
        window_of(recording, start, frames, recipe.context)
        for recording in recordings
        for start in range(0, len(recording.mel) - frames + 1, frames)
    ]
    total = 0.0
    for i in range(0, len(pieces), recipe.rows):
        mel, window, previous, labels = (
            torch.stack(column) for column in zip(*pieces[i : i + recipe.rows], strict=True)
        )
        logits, _ = model(mel, window, previous, torch.zeros(1, len(mel), recipe.rnn_size))
        total += float(bits_a_sample(logits, labels)) * len(mel)
    return total / len(pieces)


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint so that an interruption leaves the old one whole."""
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, tensors and plain values only."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in as many ways as there are files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RecipeError(f"{path}: not a checkpoint that can be read ({reason})") from None
    if not isinstance(content, dict) or not {"model", "step"} <= set(content):
        raise RecipeError(f"{path}: expected a dict with 'model' and 'step', as univoc and this script write it")
    return content


def sized_like(state: dict[str, Tensor], recipe: Recipe) -> Recipe:
    """The recipe with the sizes of a state dict."""
    return dataclasses.replace(
        recipe,
        conditioning_size=state["rnn1.weight_hh_l0"].shape[1],
        embedding_dim=state["embedding.weight"].shape[1],
        rnn_size=state["rnn2.weight_hh_l0"].shape[1],
        fc_size=state["fc1.weight"].shape[0],
        bits=state["embedding.weight"].shape[0].bit_length() - 1,
    )


def config_yaml(recipe: Recipe) -> str:
    """The ``config.yaml`` of univoc, and under ``waveform`` what is particular to this recipe."""
    a, r = AUDIO, recipe
    return (
        f"preprocess: {{sr: {a.sample_rate}, hop_length: {a.hop_length}, win_length: {a.win_length}, n_fft: {a.n_fft}, "
        f"n_mels: {a.n_mels}, fmin: {a.fmin:g}, mel_norm: {a.mel_norm}, preemph: {a.preemphasis}, "
        f"top_db: {-a.min_level_db:g}, ref_db: {a.reference_db:g}, mulaw: {{bits: {r.bits}}}}}\n"
        f"model: {{n_mels: {a.n_mels}, conditioning_size: {r.conditioning_size}, embedding_dim: {r.embedding_dim}, "
        f"rnn_size: {r.rnn_size}, fc_size: {r.fc_size}, bits: {r.bits}, hop_length: {a.hop_length}, "
        f"sr: {a.sample_rate}}}\n"
        f"waveform: {{preemphasis: {a.waveform_preemphasis}, peak: {a.peak}}}\n"
    )


def learning_rate_at(progress: float, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero; ``progress`` is the used share of the budget."""
    return recipe.learning_rate * min(1.0, progress / recipe.warm_up) * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    clips: Clips,
    output: Path,
    recipe: Recipe,
    keep_out: Sequence[str] | None = None,
    init: Path | None = None,
    resume: bool = False,
) -> dict[str, float]:
    """Trains, and writes ``model.pt``, ``config.yaml`` and ``training.pt`` to ``output``.

    Args:
        clips: from `read_folder`.
        output: folder, created where it is missing.
        recipe: its sizes give way to those of ``init`` or of what is resumed.
        keep_out: clips that are validated on, never trained on; ``None`` is the last eighth. Resuming keeps them.
        init: checkpoint to begin with.
        resume: whether to go on from ``output / "training.pt"``.

    Returns:
        ``step`` and bits a sample: ``training`` since the last validation, ``validation``, and ``validation_before``.
    """
    start: dict[str, Any] = load(output / "training.pt") if resume else load(init) if init else {"step": 0}
    if "model" in start:
        try:
            recipe = sized_like(start["model"], recipe)
            TrainingModel(recipe).load_state_dict(start["model"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError):
            found = init or output / "training.pt"
            raise RecipeError(f"{found}: expected the tensors of univoc's network with {AUDIO.n_mels} mels") from None
    if keep_out is not None and sorted(keep_out) != start.get("kept_out", sorted(keep_out)):
        raise RecipeError(f"--keep-out: the training to resume keeps out {', '.join(start['kept_out'])}")
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed + start["step"])
    names, kept = split(list(clips), start.get("kept_out", keep_out))
    originals = [prepare(name, *clips[name], 1.0, recipe.bits) for name in names]
    variants = [altered(name, *clips[name], recipe.bits, rng) for name in names * recipe.variants]
    kept_out = [prepare(name, *clips[name], 1.0, recipe.bits) for name in kept]
    shortest = min(len(recording.mel) for recording in originals + variants)
    if recipe.frames + 2 * recipe.context > shortest:
        most = shortest - 2 * recipe.context
        raise RecipeError(
            f"frames: found {recipe.frames}, expected at most {most}; the shortest clip or variant has {shortest}, and "
            f"{recipe.context} are added on each side"
        )
    model, average = TrainingModel(recipe), TrainingModel(recipe)
    if "model" in start:
        model.load_state_dict(start.get("weights", start["model"]))
    average.load_state_dict(start.get("model", model.state_dict()))
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    if resume:
        optimizer.load_state_dict(start["optimizer"])
    step, updates, began = start["step"], start.get("updates", 0), time.monotonic() - start.get("seconds", 0.0)

    def progress() -> float:
        by_updates = updates / recipe.max_updates if recipe.max_updates else 0.0
        by_time: float = (time.monotonic() - began) / (60 * recipe.minutes)
        return max(by_time, by_updates)

    now = progress()
    if now >= 1:
        raise RecipeError(f"{output}: its budget is used up after {updates} updates; raise --minutes or --max-updates")
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.yaml").write_text(config_yaml(recipe))
    result: dict[str, float] = {"validation_before": validate(average, kept_out, recipe)}
    losses: list[float] = []
    stream = batches(originals, variants, recipe.rows, recipe.frames, recipe.context, rng)
    hidden = torch.zeros(1, recipe.rows, recipe.rnn_size)
    bar = tqdm(total=100, file=sys.stderr, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}")
    while now < 1:
        mel, window, previous, labels, going_on = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(now, recipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            logits, last = model(mel, window, previous, hidden * going_on[:, None])
            loss = bits_a_sample(logits, labels)
        hidden = last.detach().float()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        step, updates = step + 1, updates + 1
        with torch.no_grad():
            decay = min(recipe.ema_decay, updates / (updates + 10))
            for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
        losses.append(float(loss.detach()))
        now = progress()
        bar.update(min(100.0, 100 * now) - bar.n)
        if updates % recipe.validate_every == 0 or now >= 1:
            result |= {"step": step, "training": sum(losses) / len(losses)}
            result["validation"] = validate(average, kept_out, recipe)
            losses.clear()
            saved = {"model": average.state_dict(), "step": step}
            save(saved, output / "model.pt")
            saved |= {"weights": model.state_dict(), "optimizer": optimizer.state_dict(), "updates": updates}
            saved |= {"seconds": time.monotonic() - began, "kept_out": kept}
            save(saved, output / "training.pt")
            bar.write(" ".join(f"{name} {value:.4g}" for name, value in result.items()), file=sys.stderr)
    bar.close()
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 where the caller has to change something."""
    defaults = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.train_voice",
        description="Train a univoc-layout WaveRNN (16 kHz, mu-law) on a folder of FLAC or WAV recordings of a voice.",
        epilog="OUTPUT gets model.pt and config.yaml, to be exported, and training.pt, to be resumed from. Minutes "
        "of speech and two hours on one CPU core give a recognisable voice; --init saves most of that time. Then: "
        "wavernn-trt export OUTPUT/model.pt -o VOICE --temperature 0.8, and wavernn-trt score VOICE KEPT_OUT_CLIPS. "
        "What is printed are bits a sample: of the kept-out clips before, and of both kinds of clips after.",
    )
    parser.add_argument("folder", type=Path, help="recordings of at least a second each, any sample rate")
    parser.add_argument("output", type=Path, help="folder for the results")
    parser.add_argument(
        "--keep-out",
        nargs="+",
        metavar="NAME",
        help="clips to validate on, their names without suffix (default: the last eighth)",
    )
    parser.add_argument("--init", type=Path, metavar="CHECKPOINT", help="begin with these weights and sizes")
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT/training.pt, within the same budget")
    parser.add_argument("--minutes", type=float, default=defaults.minutes, help="budget (default: %(default)s)")
    parser.add_argument("--max-updates", type=int, help="end after so many updates if that is earlier")
    parser.add_argument("--threads", type=positive_integer, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--learning-rate", type=float, default=defaults.learning_rate, help="at its highest (default: %(default)s)"
    )
    meanings = {
        "rows": "recordings walked through at the same time",
        "frames": "mel frames in a step's window",
        "variants": "altered copies of each clip, in speed, pitch and level",
        "validate_every": "updates between validations, each of which also saves",
        "rnn_size": "units of the decoder's GRU",
        "fc_size": "units of the fully connected layer",
        "seed": "of weights, crops and alterations",
    }
    for name, meaning in meanings.items():
        default, flag = getattr(defaults, name), "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)")
    options = vars(parser.parse_args(arguments))
    folder, threads = options.pop("folder"), options.pop("threads")
    torch.set_num_threads(threads)
    try:
        recipe = Recipe(**{name: options.pop(name) for name in list(options) if hasattr(defaults, name)})
        result = train(read_folder(folder), recipe=recipe, **options)
    except (RecipeError, CorpusError, OSError) as error:
        print(f"train_voice: {error}", file=sys.stderr)
        return 2
    print(" ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
