"""Trains the acoustic model: `python -m wavernn_trt.scripts.training.acoustic.train --help`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from wavernn_trt.export.acoustic.network import AcousticNetwork, AcousticSizes
from wavernn_trt.runtime.jobs.result import Stop
from wavernn_trt.scripts.arguments import positive_integer, positive_number
from wavernn_trt.scripts.interruption import interruptible
from wavernn_trt.scripts.training.acoustic.labelled_corpus import (
    Scales,
    Utterance,
    batches,
    measured_scales,
    read_corpus,
    symbol_table,
    utterance,
)
from wavernn_trt.scripts.training.acoustic.losses import WEIGHTS, losses
from wavernn_trt.scripts.training.model import load, save
from wavernn_trt.scripts.training.recipe import RecipeError

MODEL, TRAINING = "acoustic.pt", "training.pt"
AVERAGING = 0.999
"""Decay of the moving average of the weights, for each update."""
VALIDATION_SECONDS = 300.0
"""Time between validations."""


@dataclass(frozen=True)
class Options:
    """How a model is trained."""

    minutes: float
    """Budget, over all runs."""
    frames: int
    """Frames of a batch at most."""
    learning_rate: float
    seed: int


@dataclass
class Model:
    """The network with what is needed to use it."""

    network: AcousticNetwork
    symbols: dict[str, int]
    scales: Scales

    def content(self, weights: Mapping[str, Tensor], step: int) -> dict[str, Any]:
        """Returns the content of ``acoustic.pt``."""
        return {
            "model": dict(weights),
            "step": step,
            "sizes": dataclasses.asdict(self.network.sizes),
            "symbols": self.symbols,
            "scales": dataclasses.asdict(self.scales),
        }


def learning_rate_at(progress: float, highest: float) -> float:
    """Returns the rate after a share of the budget: a linear warm-up over 2 %, then a cosine to zero."""
    return highest * min(1.0, (progress + 1e-3) / 0.02) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def average_losses(network: AcousticNetwork, utterances: Sequence[Utterance], scales: Scales) -> dict[str, float]:
    """Returns the means of the losses over utterances."""
    network.eval()
    sums: Counter[str] = Counter()
    with torch.inference_mode():
        for one in utterances:
            sums.update({name: value.item() for name, value in losses(network, [one], scales).items()})
    network.train()
    return {name: value / len(utterances) for name, value in sums.items()}


def train(
    training: Sequence[Utterance],
    kept_out: Sequence[Utterance],
    model: Model,
    options: Options,
    output: Path,
    *,
    state: Mapping[str, Any] | None,
    stop: Stop,
) -> dict[str, float]:
    """Trains until the budget is used or ``stop`` is requested; writes ``acoustic.pt`` and ``training.pt``.

    Returns:
        Losses of the kept-out utterances with the averaged weights.
    """
    network = model.network
    average = AcousticNetwork(network.sizes)
    optimizer = torch.optim.AdamW(network.parameters(), options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    step, spent = 0, 0.0
    if state:
        network.load_state_dict(state["weights"])
        average.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    else:
        average.load_state_dict(network.state_dict())
    generator = torch.Generator().manual_seed(options.seed + step)
    torch.manual_seed(options.seed + step)
    source = batches(training, options.frames, generator)
    began, validated = time.monotonic(), time.monotonic()
    found: dict[str, float] = {}

    budget = round(60 * options.minutes)

    def write() -> dict[str, float]:
        content = model.content(average.state_dict(), step)
        save(content, output / MODEL)
        seconds = spent + time.monotonic() - began
        save({**content, "weights": network.state_dict(), "optimizer": optimizer.state_dict(), "seconds": seconds},
             output / TRAINING)  # fmt: skip
        return average_losses(average, kept_out, model.scales)

    with tqdm(total=budget, initial=round(spent), unit=" s", file=sys.stderr) as bar:
        while not stop.requested:
            elapsed = spent + time.monotonic() - began
            if elapsed >= 60 * options.minutes:
                break
            rate = learning_rate_at(elapsed / (60 * options.minutes), options.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            parts = losses(network, next(source), model.scales)
            loss = sum((WEIGHTS[name] * value for name, value in parts.items()), torch.zeros(()))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            decay = min(AVERAGING, (1 + step) / (10 + step))
            with torch.no_grad():
                for one, other in zip(average.parameters(), network.parameters(), strict=True):
                    one.lerp_(other, 1 - decay)
            bar.set_postfix_str(" ".join(f"{name} {value.item():.3f}" for name, value in parts.items()), refresh=False)
            bar.update(min(round(spent + time.monotonic() - began), budget) - bar.n)
            if time.monotonic() - validated > VALIDATION_SECONDS:
                found = write()
                bar.write(f"update {step}: {_line(found)}", file=sys.stderr)
                validated = time.monotonic()
    found = write()
    print(json.dumps({"updates": step, **{name: round(value, 4) for name, value in found.items()}}))
    return found


def _line(values: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in values.items())


def prepared(corpus: Path, options: Options) -> tuple[list[Utterance], list[Utterance], Model]:
    """Reads a corpus; returns its training and kept-out utterances, and a model with random weights.

    Raises:
        RecipeError: the corpus cannot be used.
    """
    if not (corpus / "training").is_dir():
        raise RecipeError(f"{corpus}: found no folder training, expected an output of synthetic_corpus")
    table = symbol_table(sorted((corpus / "training").glob("*.npz")))
    clips = read_corpus(corpus / "training", table)
    others = read_corpus(corpus / "kept-out", table)
    symbols = {symbol: place for place, symbol in enumerate(sorted(set(table.values())), start=1)}
    if not any(clip.f0.any() for clip in clips):
        raise RecipeError(f"{corpus / 'training'}: found no voiced frames, expected speech with f0")
    scales = measured_scales(clips)
    torch.manual_seed(options.seed)
    model = Model(AcousticNetwork(AcousticSizes(symbols=len(symbols) + 1)), symbols, scales)
    return (
        [utterance(one, symbols, scales) for one in clips],
        [utterance(one, symbols, scales) for one in others],
        model,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 2 after an error of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.acoustic.train",
        description="Train the acoustic model, which turns phonemes into mels, on a corpus of synthetic_corpus.",
        epilog="Writes to OUTPUT: acoustic.pt, the averaged weights with symbols and scales, and training.pt, for "
        "--resume. Prints the losses of kept-out sentences: of the mel (a share of its range, 80 dB), of durations, "
        "pitch, voicing and energy of phonemes, of f0 (contour) and voicing (frames) of frames.",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="output folder of synthetic_corpus")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="output folder")
    parser.add_argument("--resume", action="store_true", help="continue from OUTPUT/training.pt, within the budget")
    parser.add_argument("--minutes", type=positive_number, default=120.0, help="budget (default: %(default)s)")
    parser.add_argument(
        "--frames", type=positive_integer, default=6000, help="frames of a batch at most (default: %(default)s)"
    )
    parser.add_argument("--learning-rate", type=positive_number, default=1e-3, help="highest (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: %(default)s)")
    parser.add_argument("--threads", type=positive_integer, help="CPU threads (default: PyTorch's)")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    options = Options(given.minutes, given.frames, given.learning_rate, given.seed)
    try:
        state = _training_state(given.output / TRAINING) if given.resume else None
        training, kept_out, model = prepared(given.corpus, options)
        if state and state["symbols"] != model.symbols:
            raise RecipeError(f"{given.output / TRAINING}: the corpus has other symbols")
        given.output.mkdir(parents=True, exist_ok=True)
        with interruptible() as interruption:
            train(training, kept_out, model, options, given.output, state=state, stop=interruption.stop)
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 128 + interruption.signal if interruption.signal else 0


def _training_state(path: Path) -> dict[str, Any]:
    state = load(path)
    missing = {"weights", "optimizer", "seconds", "symbols"} - set(state)
    if missing:
        raise RecipeError(f"{path}: found no {', '.join(sorted(missing))}, expected a training.pt of acoustic.train")
    return state


if __name__ == "__main__":
    sys.exit(main())
