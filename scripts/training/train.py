"""Trains a univoc-layout WaveRNN on folders of speech: `python -m wavernn_trt.scripts.training.train --help`.

Each row of a batch goes through a recording a few frames at a time and keeps its recurrent state, so that training sees
the states of synthesis. The loss is the teacher-forced cross entropy of the next label, in bits per sample. The saved
weights are their moving average.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

try:
    import torch
except ModuleNotFoundError:
    sys.exit("train needs PyTorch: pip install '.[train]' in a clone of the project")
from torch import Tensor
from tqdm import tqdm

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.runtime.jobs.result import Stop
from wavernn_trt.scripts.arguments import positive_integer, positive_number
from wavernn_trt.scripts.interruption import interruptible
from wavernn_trt.scripts.training.corpus import (
    Clips,
    Corpus,
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
    widened,
)
from wavernn_trt.scripts.training.processes import Processes, joined
from wavernn_trt.scripts.training.recipe import RECIPES, Recipe, RecipeError, meanings
from wavernn_trt.scripts.training.samples import write_samples
from wavernn_trt.scripts.training.training_data import check_lengths, training_data
from wavernn_trt.scripts.training.updates import Training, learning_rate_at, progress

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


def train(
    folders: Sequence[Clips],
    output: Path,
    recipe: Recipe,
    *,
    shares: Sequence[float] | None = None,
    keep_out: Sequence[str] | None = None,
    init: Path | None = None,
    widen: bool = False,
    resume: bool = False,
    device: torch.device | None = None,
    float16: bool = False,
    stop: Stop | None = None,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Trains a voice and writes it to ``output``.

    ``model.pt`` is the average of the weights, ``best.pt`` the average with the lowest validation loss, ``config.yaml``
    their settings, ``training.pt`` the state to resume from, and ``samples/`` has samples of the kept-out clips.

    Args:
        folders: from `read_folder`.
        output: folder, created if missing.
        recipe: its sizes are replaced by those of ``init`` or of the resumed training.
        shares: of the folders in the training data and in the validation loss; ``None`` is equal shares.
        keep_out: clips to validate on, not trained on; ``None`` is the last eighth. Resuming keeps them.
        init: checkpoint or model directory with the initial weights; not together with ``resume``.
        widen: whether the recipe's sizes are kept, with added units beside those of ``init``.
        resume: whether to continue from ``output / "training.pt"``.
        device: to train on; ``None`` is the CPU.
        float16: whether ``model.pt`` and ``best.pt`` have the weights in half precision.
        stop: ends the training early, after a validation and saving.
        processes: that share the rows, on CPUs; the first validates and writes.

    Returns:
        ``step`` and bits per sample: ``training`` since the last validation, ``validation``, the lowest as ``best``,
        and ``validation_before``; with several folders also ``validation_1`` and so on, for each; and the
        ``correlation`` of the log-mels of the last samples.

    Raises:
        ValueError: the recipe or the clips cannot be trained with, the loss is not finite, or samples were requested
            and matplotlib is not installed.
    """
    device, stop, processes = device or torch.device("cpu"), stop or Stop(), processes or Processes()
    shares = [share / math.fsum(shares) for share in shares] if shares else [1 / len(folders)] * len(folders)
    if len(shares) != len(folders):
        raise RecipeError(f"--share: found {len(shares)} numbers, expected one for each of the {len(folders)} folders")
    if widen and init is None:
        raise RecipeError("--widen: found no --init, expected the voice to widen")
    if recipe.rows % processes.count:
        raise RecipeError(f"rows: found {recipe.rows}, expected a multiple of the {processes.count} processes")
    saved = load_training(output / "training.pt") if resume else {}
    torch.manual_seed(recipe.seed)
    weights = saved.get("model") or (load_weights(init) if init else None)
    if weights is not None:
        try:
            if widen:
                weights = widened(weights, recipe)
            recipe = sized_like(weights, recipe)
        except RecipeError as error:
            raise RecipeError(f"{init or output / 'training.pt'}: {error}") from None
    if keep_out is not None and sorted(keep_out) != saved.get("kept_out", sorted(keep_out)):
        raise RecipeError(f"--keep-out: the training to resume keeps out {', '.join(saved['kept_out'])}")
    if recipe.samples_every:
        need_matplotlib()
    names, kept = split(folders, saved.get("kept_out", keep_out))
    training = Training(recipe, device, processes)
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

    rng = torch.Generator().manual_seed((recipe.seed + training.updates) * processes.count + processes.rank)
    kept_out = [[prepare(name, *clips[name], 1.0, recipe.bits) for name in kept[i]] for i, clips in enumerate(folders)]
    validations = [Corpus(recordings, device) for recordings in kept_out]
    own = [part[processes.rank :: processes.count] for part in names]
    recordings, groups = training_data(folders, own, shares, recipe, rng, 1 / processes.count)
    for some, frames in ((recordings, recipe.frames), ([*itertools.chain(*kept_out)], _VALIDATED)):
        check_lengths(some, frames, recipe.context)
    corpus = Corpus(recordings, device)
    del recordings
    batches = walk(
        corpus, sampling_weights(corpus, groups), recipe.rows // processes.count, recipe.frames, recipe.context, rng
    )

    def validated() -> dict[str, float]:
        bits = [validate(training.average, validation, recipe) for validation in validations]
        each = {f"validation_{i}": value for i, value in enumerate(bits, 1)} if len(bits) > 1 else {}
        return {"validation": math.fsum(share * value for share, value in zip(shares, bits, strict=True))} | each

    result: dict[str, float] = {}
    if processes.rank == 0:
        result["validation_before"] = validated()["validation"]
    if not math.isfinite(processes.first(result.get("validation_before", 0.0))):
        raise RecipeError(f"{init or output}: its weights give no finite loss")
    best = saved.get("best", math.inf)
    losses: list[Tensor] = []
    began = time.monotonic() - spent
    with tqdm(
        initial=100 * done,
        total=100,
        file=sys.stderr,
        bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
        disable=processes.rank > 0,
    ) as bar:
        ending = False
        while not ending:
            loss = training.update(*next(batches), learning_rate_at(done, recipe))
            done = processes.first(progress(training.updates, time.monotonic() - began, recipe))
            bar.update(min(100.0, 100 * done) - bar.n)
            ending = done >= 1 or bool(processes.first(stop.requested))
            if processes.rank > 0:
                continue
            losses.append(loss)
            if training.updates % recipe.validate_every and not ending:
                continue
            # The loss of a batch that overflowed float16 is NaN; the scaler skips its update.
            result |= {"step": training.updates, "training": float(torch.stack(losses).nanmean())} | validated()
            losses.clear()
            if not math.isfinite(result["validation"]):
                raise RecipeError("the loss is no longer finite; saved files are kept; lower --learning-rate")
            content = training.content()
            weights = {name: value.half() if float16 else value for name, value in content["model"].items()}
            result["best"] = best = min(best, result["validation"])
            write_atomic(output / "config.yaml", config_yaml(recipe).encode())
            for name in ("model.pt", "best.pt") if result["validation"] == best else ("model.pt",):
                save({"model": weights, "step": training.updates}, output / name)
            content |= {"kept_out": [*itertools.chain(*kept)], "best": best, "seconds": time.monotonic() - began}
            save(content, output / "training.pt")
            number = training.updates // recipe.validate_every
            if recipe.samples_every and (ending or number % recipe.samples_every == 0):
                some = [recording for recordings in zip(*kept_out, strict=False) for recording in recordings]
                result["correlation"] = write_samples(weights, some, output / "samples", f"{training.updates:07d}")
            bar.write(" ".join(f"{name} {value:.4g}" for name, value in result.items()), file=sys.stderr)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 2 after an error of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.train",
        description="Train a WaveRNN with univoc's layout (16 kHz, mu-law) on folders of recordings.",
        epilog="Writes to OUTPUT: model.pt and config.yaml, for 'wavernn-trt export' (moving average of the weights); "
        "best.pt, the average with the lowest validation loss, for the case of overfitting; training.pt, for --resume; "
        "and samples of the kept-out clips with their spectrograms. "
        "On a CPU with N cores, 'OMP_NUM_THREADS=1 torchrun --nproc-per-node N -m wavernn_trt.scripts.training.train' "
        "in place of 'python -m …' shares the batch between N processes, which is faster than N threads. "
        "Some minutes of speech and some hours on two CPU cores give a recognisable voice; --init saves most of that "
        "time. Then run: wavernn-trt export OUTPUT/model.pt -o VOICE --temperature 0.8, and wavernn-trt score VOICE "
        "CLIPS. Prints bits per sample of the kept-out clips before the training, and of training and kept-out clips "
        "after it, and the correlation between the log-mels of the last samples and of the kept-out clips.",
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="SPEECH",
        help="folders of recordings; if one is shorter than 2 s, lower --context",
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="output folder")
    parser.add_argument(
        "--recipe", choices=RECIPES, default="heart-lj", help="defaults of the options below (default: %(default)s)"
    )
    parser.add_argument(
        "--share",
        nargs="+",
        type=positive_number,
        metavar="X",
        help="proportions of the folders in the training data (default: equal)",
    )
    parser.add_argument(
        "--keep-out",
        nargs="+",
        metavar="NAME",
        help="names of clips, without suffix, to validate on and not to train on (default: the last eighth "
        "of each folder)",
    )
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument(
        "--init", type=Path, metavar="MODEL", help="start with the weights and sizes of a checkpoint or model directory"
    )
    origin.add_argument(
        "--resume", action="store_true", help="continue from OUTPUT/training.pt, within the same budget"
    )
    parser.add_argument(
        "--widen",
        action="store_true",
        help="keep the recipe's sizes, where they are larger than those of --init: units are added to its layers",
    )
    parser.add_argument(
        "--device",
        type=device_named,
        metavar="cpu|cuda",
        help="device to train on (default: a GPU, if PyTorch can use one)",
    )
    parser.add_argument("--threads", type=positive_integer, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--float16", action="store_true", help="write model.pt in half precision, with half the size")
    chosen = parser.add_argument_group("options of the recipe", f"In parentheses: the values of {', '.join(RECIPES)}.")
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
    folders, threads, named = options.pop("folders"), options.pop("threads"), options.pop("recipe")
    if threads:
        torch.set_num_threads(threads)
    try:
        given = {name: options.pop(name) for name in meanings()}
        recipe = dataclasses.replace(
            RECIPES[named], **{name: value for name, value in given.items() if value is not None}
        )
        device = options.pop("device") or device_named("cuda" if torch.cuda.is_available() else "cpu")
        clips = [read_folder(folder) for folder in folders]
        with joined(device) as processes, interruptible() as interruption:
            result = train(
                clips,
                recipe=recipe,
                device=device,
                shares=options.pop("share"),
                stop=interruption.stop,
                processes=processes,
                **options,
            )
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        print(f"train: {str(error).splitlines()[0]}; lower --rows", file=sys.stderr)
        return 2
    if result:
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
