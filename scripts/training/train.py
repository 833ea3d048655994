"""Trains a univoc-layout WaveRNN on a folder of speech: `python -m wavernn_trt.scripts.training.train --help`.

Each row of a batch goes through a recording a few frames at a time and keeps its recurrent state, so that training sees
the states of synthesis. The loss is the teacher-forced cross entropy of the next label, in bits per sample. The saved
weights are their moving average.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import torch
except ModuleNotFoundError:
    sys.exit("train needs PyTorch: pip install '.[train]' in a clone of the project")
from torch import Tensor, nn
from tqdm import tqdm

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.runtime.jobs.result import Stop
from wavernn_trt.scripts.arguments import positive_integer
from wavernn_trt.scripts.interruption import interruptible
from wavernn_trt.scripts.training.corpus import (
    Clips,
    Corpus,
    Recording,
    Windows,
    altered,
    prepare,
    read_folder,
    sampling_weights,
    split,
    walk,
)
from wavernn_trt.scripts.training.mel_picture import need_matplotlib
from wavernn_trt.scripts.training.model import (
    TrainingModel,
    bits_a_sample,
    config_yaml,
    load_training,
    load_weights,
    save,
    sized_like,
)
from wavernn_trt.scripts.training.recipe import RECIPES, Recipe, RecipeError, meanings
from wavernn_trt.scripts.training.samples import write_samples

_VALIDATED = 40
"""Frames of a validation piece: 0.5 s."""
_PIECES = 32
"""Batch size of validation; more would need gigabytes for the logits."""


@torch.no_grad()
def validate(model: TrainingModel, corpus: Corpus, recipe: Recipe) -> float:
    """Returns bits per sample in float32 over pieces of 0.5 s, each with a zero initial state; drops shorter ends."""
    which, start = corpus.pieces(_VALIDATED)
    total = 0.0
    for rows in torch.arange(len(which), device=which.device).split(_PIECES):
        windows = corpus.windows(which[rows], start[rows], _VALIDATED, recipe.context)
        logits, _ = model(windows, torch.zeros(len(rows), recipe.rnn_size, device=rows.device))
        total += float(bits_a_sample(logits, windows.labels)) * len(rows)
    return total / len(which)


def progress(updates: int, seconds: float, recipe: Recipe) -> float:
    """Returns the used share of the budget, in updates or in time."""
    by_updates = updates / recipe.max_updates if recipe.max_updates else 0.0
    return max(seconds / (60 * recipe.minutes), by_updates)


def learning_rate_at(progress: float, recipe: Recipe) -> float:
    """Returns the learning rate after a share of the budget: a linear warm-up, then a cosine to zero."""
    return recipe.learning_rate * min(1.0, progress / recipe.warm_up) * 0.5 * (1 + math.cos(math.pi * progress))


def check_lengths(recordings: Sequence[Recording], frames: int, context: int) -> None:
    """Raises a RecipeError if a window does not fit into every recording."""
    shortest = min(recordings, key=lambda recording: len(recording.mel))
    if frames + 2 * context > len(shortest.mel):
        raise RecipeError(
            f"{frames} frames with {context} on each side do not fit: {shortest.name} or its fastest copy has "
            f"{len(shortest.mel)}; lower --frames or --context, or leave that clip out"
        )


class Training:
    """The weights, their moving average and the optimizer's state, on one device. Starts with random weights."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.model, self.average = TrainingModel(recipe).to(device), TrainingModel(recipe).to(device)
        self.average.load_state_dict(self.model.state_dict())
        self.average.eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
        )
        # float16 on a GPU, as autocast supports no other type for cuDNN's GRU; float32 on a CPU.
        self._half = device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half)
        self._hidden = torch.zeros(recipe.rows, recipe.rnn_size, device=device)
        self.updates = 0

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replaces the weights and their average."""
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)

    def update(self, windows: Windows, going_on: Tensor, learning_rate: float) -> Tensor:
        """Makes one step of the optimizer; returns bits per sample before it.

        Args:
            windows: a batch.
            going_on: float [B], 0 where a row starts with a zero state.
            learning_rate: of this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with torch.autocast(self.device.type, torch.float16 if self._half else torch.bfloat16, enabled=self._half):
            # Not by a product: after an overflow of float16, the state to be reset is NaN.
            before = torch.where(going_on[:, None] > 0, self._hidden, 0.0)
            logits, self._hidden = self.model(windows, before)
            loss = bits_a_sample(logits, windows.labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.updates += 1
        decay = min(self.recipe.ema_decay, self.updates / (self.updates + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return loss.detach()

    def content(self) -> dict[str, Any]:
        """Returns the state for `resume`."""
        return {
            "weights": self.model.state_dict(),
            "model": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step": self.updates,
        }

    def resume(self, content: Mapping[str, Any]) -> None:
        """Restores a saved state; rows start at other positions."""
        self.model.load_state_dict(content["weights"])
        self.average.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"] and self._half:
            self._scaler.load_state_dict(content["scaler"])
        self.updates = content["step"]


def train(
    clips: Clips,
    output: Path,
    recipe: Recipe,
    *,
    keep_out: Sequence[str] | None = None,
    init: Path | None = None,
    resume: bool = False,
    device: torch.device | None = None,
    float16: bool = False,
    stop: Stop | None = None,
) -> dict[str, float]:
    """Trains a voice and writes it to ``output``.

    ``model.pt`` is the average of the weights, ``best.pt`` the average with the lowest validation loss, ``config.yaml``
    their settings, ``training.pt`` the state to resume from, and ``samples/`` has samples of the kept-out clips.

    Args:
        clips: from `read_folder`.
        output: folder, created if missing.
        recipe: its sizes are replaced by those of ``init`` or of the resumed training.
        keep_out: clips to validate on, not trained on; ``None`` is the last eighth. Resuming keeps them.
        init: checkpoint or model directory with the initial weights; not together with ``resume``.
        resume: whether to continue from ``output / "training.pt"``.
        device: to train on; ``None`` is the CPU.
        float16: whether ``model.pt`` and ``best.pt`` have the weights in half precision.
        stop: ends the training early, after a validation and saving.

    Returns:
        ``step`` and bits per sample: ``training`` since the last validation, ``validation``, the lowest as ``best``,
        and ``validation_before``; and the ``correlation`` of the log-mels of the last samples.

    Raises:
        ValueError: the recipe or the clips cannot be trained with, the loss is not finite, or samples were requested
            and matplotlib is not installed.
    """
    device, stop = device or torch.device("cpu"), stop or Stop()
    saved = load_training(output / "training.pt") if resume else {}
    weights = saved.get("model") or (load_weights(init) if init else None)
    if weights is not None:
        try:
            recipe = sized_like(weights, recipe)
        except RecipeError as error:
            raise RecipeError(f"{init or output / 'training.pt'}: {error}") from None
    if keep_out is not None and sorted(keep_out) != saved.get("kept_out", sorted(keep_out)):
        raise RecipeError(f"--keep-out: the training to resume keeps out {', '.join(saved['kept_out'])}")
    if recipe.samples_every:
        need_matplotlib()
    names, kept = split(list(clips), saved.get("kept_out", keep_out))
    torch.manual_seed(recipe.seed)
    training = Training(recipe, device)
    if resume:
        training.resume(saved)
    elif weights is not None:
        training.load_weights(weights)
    spent = saved.get("seconds", 0.0)
    done = progress(training.updates, spent, recipe)
    if done >= 1:
        raise RecipeError(
            f"{output}: the budget is used up after {training.updates} updates; raise --minutes or --max-updates"
        )

    rng = torch.Generator().manual_seed(recipe.seed + training.updates)
    recordings = [prepare(name, *clips[name], 1.0, recipe.bits) for name in names]
    if recipe.variant_share:
        recordings += [altered(name, *clips[name], recipe.bits, rng) for name in names * recipe.variants]
    kept_out = [prepare(name, *clips[name], 1.0, recipe.bits) for name in kept]
    check_lengths(recordings, recipe.frames, recipe.context)
    check_lengths(kept_out, _VALIDATED, recipe.context)
    corpus, validation = Corpus(recordings, device), Corpus(kept_out, device)
    del recordings
    sampling = sampling_weights(corpus, len(names), recipe.variant_share)
    batches = walk(corpus, sampling, recipe.rows, recipe.frames, recipe.context, rng)

    result: dict[str, float] = {"validation_before": validate(training.average, validation, recipe)}
    if not math.isfinite(result["validation_before"]):
        raise RecipeError(f"{init or output}: its weights give no finite loss")
    best = saved.get("best", math.inf)
    losses: list[Tensor] = []
    began = time.monotonic() - spent
    with tqdm(total=100, file=sys.stderr, bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}") as bar:
        ending = False
        while not ending:
            losses.append(training.update(*next(batches), learning_rate_at(done, recipe)))
            done = progress(training.updates, time.monotonic() - began, recipe)
            bar.update(min(100.0, 100 * done) - bar.n)
            ending = done >= 1 or stop.requested
            if training.updates % recipe.validate_every and not ending:
                continue
            # The loss of a batch that overflowed float16 is NaN; the scaler skips its update.
            result |= {"step": training.updates, "training": float(torch.stack(losses).nanmean())}
            result["validation"] = validate(training.average, validation, recipe)
            losses.clear()
            if not math.isfinite(result["validation"]):
                raise RecipeError("the loss is no longer finite; saved files are kept; lower --learning-rate")
            content = training.content()
            weights = {name: value.half() if float16 else value for name, value in content["model"].items()}
            result["best"] = best = min(best, result["validation"])
            write_atomic(output / "config.yaml", config_yaml(recipe).encode())
            for name in ("model.pt", "best.pt") if result["validation"] == best else ("model.pt",):
                save({"model": weights, "step": training.updates}, output / name)
            content |= {"kept_out": kept, "best": best, "seconds": time.monotonic() - began}
            save(content, output / "training.pt")
            validations = training.updates // recipe.validate_every
            if recipe.samples_every and (ending or validations % recipe.samples_every == 0):
                result["correlation"] = write_samples(weights, kept_out, output / "samples", f"{training.updates:07d}")
            bar.write(" ".join(f"{name} {value:.4g}" for name, value in result.items()), file=sys.stderr)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 2 after an error of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.train",
        description="Train a WaveRNN with univoc's layout (16 kHz, mu-law) on a folder of recordings of a voice.",
        epilog="Writes to OUTPUT: model.pt and config.yaml, for 'wavernn-trt export' (moving average of the weights); "
        "best.pt, the average with the lowest validation loss, for the case of overfitting; training.pt, for --resume; "
        "and samples of the kept-out clips with their spectrograms. "
        "Some minutes of speech and some hours on two CPU cores give a recognisable voice; --init saves most of that "
        "time. Then run: wavernn-trt export OUTPUT/model.pt -o VOICE --temperature 0.8, and wavernn-trt score VOICE "
        "CLIPS. Prints bits per sample of the kept-out clips before the training, and of training and kept-out clips "
        "after it, and the correlation between the log-mels of the last samples and of the kept-out clips.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="SPEECH",
        help="folder of recordings; if one is shorter than 2 s, lower --context",
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="output folder")
    parser.add_argument(
        "--recipe", choices=RECIPES, default="lj-small", help="defaults of the options below (default: lj-small)"
    )
    parser.add_argument(
        "--keep-out",
        nargs="+",
        metavar="NAME",
        help="names of clips, without suffix, to validate on and not to train on (default: the last eighth)",
    )
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument(
        "--init", type=Path, metavar="MODEL", help="start with the weights and sizes of a checkpoint or model directory"
    )
    origin.add_argument(
        "--resume", action="store_true", help="continue from OUTPUT/training.pt, within the same budget"
    )
    parser.add_argument(
        "--device",
        type=device_named,
        metavar="cpu|cuda",
        help="device to train on (default: a GPU, if PyTorch can use one)",
    )
    parser.add_argument("--threads", type=positive_integer, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--float16", action="store_true", help="write model.pt in half precision, with half the size")
    chosen = parser.add_argument_group("options of the recipe", "In parentheses: the values of lj-small and lj-896.")
    for name, meaning in meanings().items():
        whole = not isinstance(getattr(Recipe, name), float)
        values = ", ".join(str(getattr(recipe, name)) for recipe in RECIPES.values())
        chosen.add_argument(
            "--" + name.replace("_", "-"),
            type=int if whole else float,
            metavar="N" if whole else "X",
            help=f"{meaning} ({values})",
        )
    options = vars(parser.parse_args(arguments))
    folder, threads, named = options.pop("folder"), options.pop("threads"), options.pop("recipe")
    if threads:
        torch.set_num_threads(threads)
    try:
        given = {name: options.pop(name) for name in meanings()}
        recipe = dataclasses.replace(
            RECIPES[named], **{name: value for name, value in given.items() if value is not None}
        )
        device = options.pop("device") or device_named("cuda" if torch.cuda.is_available() else "cpu")
        with interruptible() as interruption:
            result = train(read_folder(folder), recipe=recipe, device=device, stop=interruption.stop, **options)
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"train: {str(error).splitlines()[0]}; lower --rows", file=sys.stderr)
        return 2
    print(" ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return 128 + interruption.signal if interruption.signal else 0


def device_named(name: str) -> torch.device:
    """Parses a device: ``cpu``, ``cuda`` or ``cuda:1``."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"found {name!r}, expected cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(
            f"found {name!r}, but PyTorch {torch.__version__} can use {torch.cuda.device_count()} GPUs"
        )
    return device


if __name__ == "__main__":
    sys.exit(main())
