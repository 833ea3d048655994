"""Trains a univoc-layout WaveRNN on a folder of speech: `python -m wavernn_trt.scripts.training.train --help`.

Each row of a batch walks through a recording, a few frames at a time, and hands its recurrent state on, so that
training meets the states that synthesis will. The loss is the cross entropy of the next label given the true ones
before it (teacher-forced), in bits a sample. What is saved is the moving average of the weights.
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
    CorpusError,
    Recording,
    Windows,
    altered,
    how_often,
    prepare,
    read_folder,
    split,
    walk,
)
from wavernn_trt.scripts.training.mel_picture import DrawingError, need_matplotlib
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
"""Frames of a piece that is validated: 0.5 s."""
_PIECES = 32
"""Validated together; more would take gigabytes for their logits."""


@torch.no_grad()
def validate(model: TrainingModel, corpus: Corpus, recipe: Recipe) -> float:
    """Bits a sample, in float32, over pieces of 0.5 s that start with an empty state; shorter ends are left out."""
    which, start = corpus.pieces(_VALIDATED)
    total = 0.0
    for rows in torch.arange(len(which), device=which.device).split(_PIECES):
        windows = corpus.windows(which[rows], start[rows], _VALIDATED, recipe.context)
        logits, _ = model(windows, torch.zeros(len(rows), recipe.rnn_size, device=rows.device))
        total += float(bits_a_sample(logits, windows.labels)) * len(rows)
    return total / len(which)


def progress(updates: int, seconds: float, recipe: Recipe) -> float:
    """The used share of the budget, of updates or of time."""
    by_updates = updates / recipe.max_updates if recipe.max_updates else 0.0
    return max(seconds / (60 * recipe.minutes), by_updates)


def learning_rate_at(progress: float, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero; ``progress`` is the used share of the budget."""
    return recipe.learning_rate * min(1.0, progress / recipe.warm_up) * 0.5 * (1 + math.cos(math.pi * progress))


def check_lengths(recordings: Sequence[Recording], frames: int, context: int) -> None:
    """Refuses windows that do not fit into every recording."""
    shortest = min(recordings, key=lambda recording: len(recording.mel))
    if frames + 2 * context > len(shortest.mel):
        raise RecipeError(
            f"{frames} frames with {context} on each side do not fit: {shortest.name} or its fastest copy has "
            f"{len(shortest.mel)}; lower --frames or --context, or leave that clip out"
        )


class Training:
    """The weights, their moving average and the optimizer's state, on one device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        """Begins with random weights."""
        self.recipe, self.device = recipe, device
        self.model, self.average = TrainingModel(recipe).to(device), TrainingModel(recipe).to(device)
        self.average.load_state_dict(self.model.state_dict())
        self.average.eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
        )
        # float16 on a GPU, the one type that autocast gives cuDNN's GRU; CPUs stay with float32.
        self._half = device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half)
        self._hidden = torch.zeros(recipe.rows, recipe.rnn_size, device=device)
        self.updates = 0

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Takes weights from elsewhere."""
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)

    def update(self, windows: Windows, going_on: Tensor, learning_rate: float) -> Tensor:
        """One step of the optimizer; bits a sample before it.

        Args:
            windows: a batch.
            going_on: float [B], 0 where a row starts with an empty state.
            learning_rate: of this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with torch.autocast(self.device.type, torch.float16 if self._half else torch.bfloat16, enabled=self._half):
            # Not by a product: where float16 overflowed, a state is NaN, and is to be forgotten.
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
        """What `resume` goes on from."""
        return {
            "weights": self.model.state_dict(),
            "model": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step": self.updates,
        }

    def resume(self, content: Mapping[str, Any]) -> None:
        """Goes on from what was saved; rows begin at other places."""
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
    """Trains, and writes to ``output``.

    ``model.pt`` is the average of the weights, ``best.pt`` that which validated best, ``config.yaml`` their settings,
    ``training.pt`` what can be resumed, and ``samples/`` what became of the kept-out clips.

    Args:
        clips: from `read_folder`.
        output: folder, created where it is missing.
        recipe: its sizes give way to those of ``init`` or of what is resumed.
        keep_out: clips that are validated on, never trained on; ``None`` is the last eighth. Resuming keeps them.
        init: what to begin with: a checkpoint or a model directory; not together with ``resume``.
        resume: whether to go on from ``output / "training.pt"``.
        device: where; ``None`` is the CPU.
        float16: whether ``model.pt`` and ``best.pt`` are to hold the weights in half precision.
        stop: ends the training early; what was learnt is validated and saved.

    Returns:
        ``step`` and bits a sample: ``training`` since the last validation, ``validation``, ``best`` of all, and
        ``validation_before``; and the ``correlation`` of the log-mels of the last samples.

    Raises:
        RecipeError: what was asked for cannot be trained, or went astray.
        CorpusError: the clips cannot be.
        DrawingError: samples were asked for, and matplotlib is not installed.
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
        training.begin_with(weights)
    spent = saved.get("seconds", 0.0)
    done = progress(training.updates, spent, recipe)
    if done >= 1:
        raise RecipeError(
            f"{output}: its budget is used up after {training.updates} updates; raise --minutes or --max-updates"
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
    often = how_often(corpus, len(names), recipe.variant_share)
    batches = walk(corpus, often, recipe.rows, recipe.frames, recipe.context, rng)

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
            # A batch that overflowed float16 is skipped by the scaler, and has no loss.
            result |= {"step": training.updates, "training": float(torch.stack(losses).nanmean())}
            result["validation"] = validate(training.average, validation, recipe)
            losses.clear()
            if not math.isfinite(result["validation"]):
                raise RecipeError("the loss is not finite any more; what was saved is kept; lower --learning-rate")
            content = training.content()
            weights = {name: value.half() if float16 else value for name, value in content["model"].items()}
            result["best"] = best = min(best, result["validation"])
            write_atomic(output / "config.yaml", config_yaml(recipe).encode())
            for name in ("model.pt", "best.pt") if result["validation"] == best else ("model.pt",):
                save({"model": weights, "step": training.updates}, output / name)
            content |= {"kept_out": kept, "best": best, "seconds": time.monotonic() - began}
            save(content, output / "training.pt")
            moment = training.updates // recipe.validate_every
            if recipe.samples_every and (ending or moment % recipe.samples_every == 0):
                result["correlation"] = write_samples(weights, kept_out, output / "samples", f"{training.updates:07d}")
            bar.write(" ".join(f"{name} {value:.4g}" for name, value in result.items()), file=sys.stderr)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 where the caller has to change something."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.train",
        description="Train a univoc-layout WaveRNN (16 kHz, mu-law) on a folder of recordings of a voice.",
        epilog="OUTPUT gets model.pt and config.yaml, to be exported: the average of the latest weights; best.pt, that "
        "which fitted the kept-out clips best, should they have been learnt by heart afterwards; training.pt, to be "
        "resumed from; and samples of the kept-out clips with their spectrograms. "
        "Minutes of speech and some hours on two CPU cores give a recognisable voice; --init saves most of that time. "
        "Then: wavernn-trt export OUTPUT/model.pt -o VOICE --temperature 0.8, and wavernn-trt score VOICE CLIPS. "
        "Printed are bits a sample, of the kept-out clips before and of both kinds of clips after, and how the "
        "log-mels of the last samples correlate with those of the kept-out clips.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="SPEECH",
        help="recordings; where one is below 2 s, lower --context",
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for the results")
    parser.add_argument(
        "--recipe", choices=RECIPES, default="lj-small", help="what the options below begin from (default: lj-small)"
    )
    parser.add_argument(
        "--keep-out",
        nargs="+",
        metavar="NAME",
        help="clips to validate on, their names without suffix (default: the last eighth)",
    )
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument(
        "--init", type=Path, metavar="MODEL", help="begin with the weights and sizes of a checkpoint or model directory"
    )
    origin.add_argument("--resume", action="store_true", help="go on from OUTPUT/training.pt, within the same budget")
    parser.add_argument(
        "--device",
        type=device_named,
        metavar="cpu|cuda",
        help="where (default: a GPU, if PyTorch can use one)",
    )
    parser.add_argument("--threads", type=positive_integer, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--float16", action="store_true", help="write model.pt in half precision, half as large")
    chosen = parser.add_argument_group("options of the recipe", "With what lj-small and lj-896 have.")
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
    except (RecipeError, CorpusError, DrawingError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"train: {str(error).splitlines()[0]}; lower --rows", file=sys.stderr)
        return 2
    print(" ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return 128 + interruption.signal if interruption.signal else 0


def device_named(name: str) -> torch.device:
    """A device for the command line: ``cpu``, ``cuda`` or ``cuda:1``."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"found {name!r}, expected cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(
            f"found {name!r}, and {torch.cuda.device_count()} GPUs that PyTorch {torch.__version__} can use"
        )
    return device


if __name__ == "__main__":
    sys.exit(main())
