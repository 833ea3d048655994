"""What it costs to condition a mel before its end is known: bits, likeness and time at growing look-ahead.

``python -m wavernn_trt.scripts.measure_windows clip.flac`` measures the shipped voice, and
``… measure_windows voices/mine clips/`` a model directory. Each line conditions the clips as a stream would
(``Vocoder.stream`` of an iterator), once for each look-ahead that the model allows:

  look-ahead   frames that are waited for behind a frame, and the same in milliseconds
  bits         teacher-forced, a sample; lower is better
  rows         mean and largest difference of the conditioning from the whole mel's, in its standard deviations
  whole        log-mel correlation of free-running output with that of the whole mel, same seed; "other seed" in the
               first column tells how like two waveforms are that only chance tells apart
  recording    the same with the recording
  conditioning milliseconds of one core for each second of speech, where frames do not come one by one
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wavernn_trt.scripts.arguments import path, positive_integer, positive_number
from wavernn_trt.scripts.bench.models import STANDARD, export_random

if TYPE_CHECKING:
    from wavernn_trt.calibration.score import Moments, Speech
    from wavernn_trt.runtime.conditioning.incremental_blocks import ConditioningBlocks
    from wavernn_trt.runtime.conditioning.windows import FloatArray
    from wavernn_trt.runtime.executors.protocol import Executor
    from wavernn_trt.runtime.loaded_model import LoadedModel

_REPEATS = 3
"""Of the conditioning; the fastest counts, since whatever else runs on the machine slows even one thread's own time."""


def main() -> int:
    """Measures and prints; returns 0, or 2 if the arguments are of no use."""
    arguments = _parse()
    try:
        with tempfile.TemporaryDirectory() as folder:
            directory, speech = _directory(arguments.paths)
            if arguments.random:
                directory = export_random(arguments.random, Path(folder))
            report = _measure(directory, speech, arguments)
    except ValueError as error:
        print(f"measure_windows: {error}", file=sys.stderr)
        return 2
    print("\n".join(_table(report["lines"])))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


class _InBlocks:
    """An executor that conditions mels as streams have them conditioned, if ``blocks`` are given."""

    def __init__(self, executor: Executor, opened: LoadedModel, blocks: ConditioningBlocks | None) -> None:
        self._executor = executor
        self._opened = opened
        self._blocks = blocks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def condition(self, mel: FloatArray) -> FloatArray:
        from wavernn_trt.runtime.conditioning.incremental_blocks import condition_in_blocks

        if self._blocks is None:
            return self._executor.condition(mel)
        return condition_in_blocks(self._blocks, self._opened.model, mel, self._executor.condition)


def _measure(directory: Path | None, paths: Sequence[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    from wavernn_trt.calibration.score import analyse
    from wavernn_trt.runtime.conditioning.incremental_blocks import RecurrentBlocks, conditioning_blocks
    from wavernn_trt.runtime.files.audio import read_audio
    from wavernn_trt.runtime.load_options import LoadOptions
    from wavernn_trt.runtime.loaded_model import load_model

    opened = load_model(directory, LoadOptions("onnxruntime", threads=1))
    condition, bins = opened.executor.condition, opened.audio.n_mels
    wishes: list[ConditioningBlocks] = []
    for frames in arguments.lookahead if opened.model.family == "univoc" else [None]:
        blocks = conditioning_blocks(opened.model, bins, condition, frames)
        if arguments.before is not None and isinstance(blocks, RecurrentBlocks):
            blocks = dataclasses.replace(blocks, before=arguments.before)
        wishes.append(blocks)
    speeches = [analyse(opened.audio, *read_audio(file)) for file in _recordings(paths)]
    if arguments.seconds:
        speeches = [_cut(speech, opened, arguments.seconds) for speech in speeches]
    whole = _Line(opened, None, speeches)
    lines = [whole.report(whole), _Line(opened, None, speeches, seed=1).report(whole)]
    for blocks in wishes:
        print(f"look-ahead {blocks.lookahead}", file=sys.stderr)
        lines.append(_Line(opened, blocks, speeches).report(whole))
    seconds = sum(len(speech.waveform) for speech in speeches) / opened.audio.sample_rate
    return {"model": str(opened.path), "family": opened.model.family, "seconds": seconds, "lines": lines}


class _Line:
    """The clips, conditioned in one way."""

    def __init__(
        self, opened: LoadedModel, blocks: ConditioningBlocks | None, speeches: Sequence[Speech], seed: int = 0
    ) -> None:
        from wavernn_trt.calibration.score import fit_speech
        from wavernn_trt.runtime.features import mel_spectrogram
        from wavernn_trt.runtime.vocoder import Vocoder

        self._blocks = blocks
        self._seed = seed
        self._audio = audio = opened.audio
        margin = opened.model.margin
        self._speeches = speeches
        executor = _InBlocks(opened.executor, opened, blocks)
        times = []
        for _ in range(_REPEATS):
            started = time.thread_time()
            rows = [executor.condition(speech.mel) for speech in speeches]
            times.append(time.thread_time() - started)
        self._seconds = min(times)
        self.rows = [one[margin : len(one) - margin] for one in rows]  # what lies outside the mel is not read
        with Vocoder(dataclasses.replace(opened, executor=cast("Executor", executor))) as vocoder:
            fits = [fit for _, fit in fit_speech(vocoder.loaded, speeches)]
            spoken = vocoder.vocode_batch([one.mel for one in speeches], seeds=[seed] * len(speeches))
        self._bits = sum(fit.bits for fit in fits) / sum(fit.samples for fit in fits)
        self.mels = [mel_spectrogram(waveform[audio.delay :], audio) for waveform in spoken]

    def report(self, whole: _Line) -> dict[str, Any]:
        import numpy as np

        audio = self._audio
        deviation = float(np.std(np.concatenate(whole.rows)))
        difference = np.abs(np.concatenate(self.rows) - np.concatenate(whole.rows)) / deviation
        lookahead = self._blocks.lookahead if self._blocks else None
        return {
            "lookahead": lookahead,
            "blocks": {} if self._blocks is None else {k: v for k, v in vars(self._blocks).items() if k[0] != "_"},
            "seed": self._seed,
            "lookahead_ms": None if lookahead is None else 1e3 * lookahead * audio.hop_length / audio.sample_rate,
            "bits": self._bits,
            "mean_difference": float(difference.mean()),
            "largest_difference": float(difference.max()),
            "correlation_with_whole": _correlation(self.mels, whole.mels),
            "correlation_with_recording": _correlation(self.mels, [speech.mel for speech in self._speeches]),
            "conditioning_ms_a_second": 1e3
            * self._seconds
            / (sum(len(one.waveform) for one in self._speeches) / audio.sample_rate),
        }


def _correlation(mels: Sequence[FloatArray], others: Sequence[FloatArray]) -> float | None:
    from wavernn_trt.calibration.score import Moments

    total: Moments = Moments()
    for one, other in zip(mels, others, strict=True):
        frames = min(one.shape[1], other.shape[1])
        total += Moments.of(one[:, :frames], other[:, :frames])
    return total.correlation


def _cut(speech: Speech, opened: LoadedModel, seconds: float) -> Speech:
    frames = max(1, round(seconds * opened.audio.sample_rate / opened.audio.hop_length))
    samples = frames * opened.audio.hop_length
    return dataclasses.replace(speech, waveform=speech.waveform[:samples], mel=speech.mel[:, :frames])


def _directory(paths: Sequence[Path]) -> tuple[Path | None, Sequence[Path]]:
    """The model directory, if the first path is one, and the recordings."""
    from wavernn_trt.export.model_directory import MANIFEST

    return (paths[0], paths[1:]) if (paths[0] / MANIFEST).is_file() else (None, paths)


def _recordings(paths: Sequence[Path]) -> list[Path]:
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.files.input_files import find_files

    found: list[Path] = []
    for one in paths:
        found += find_files(one, mels=False)[0] if one.is_dir() else [one]
    if not found:
        raise VocoderError("recordings: found none, expected at least one behind the model directory")
    return found


def _table(lines: list[dict[str, Any]]) -> list[str]:
    table = [
        "| look-ahead | ms | bits | rows, mean | rows, largest | whole | recording | conditioning, ms/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        name = "whole mel" if line["lookahead"] is None else str(line["lookahead"])
        delay = "" if line["lookahead"] is None else f"{line['lookahead_ms']:.0f}"
        table.append(
            f"| {name + (', other seed' if line['seed'] else '')} | {delay} | {line['bits']:.4f} "
            f"| {line['mean_difference']:.1e} | {line['largest_difference']:.1e} "
            f"| {line['correlation_with_whole'] or 0:.4f} | {line['correlation_with_recording'] or 0:.4f} "
            f"| {line['conditioning_ms_a_second']:.1f} |"
        )
    return table


def _numbers(text: str) -> tuple[int, ...]:
    if not all(word.isascii() and word.isdigit() for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected numbers of frames such as 0,4,19")
    return tuple(int(word) for word in text.split(","))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.measure_windows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", nargs="+", type=path, metavar="[DIR] SPEECH", help="recordings, or folders; before them a model"
    )
    parser.add_argument("--random", choices=sorted(STANDARD), help="a standard model with random weights instead")
    parser.add_argument(
        "--lookahead",
        type=_numbers,
        default=(0, 4, 8, 12, 19, 35),
        metavar="NUMBERS",
        help="frames, where the model leaves a choice (default: 0,4,8,12,19,35)",
    )
    parser.add_argument("--before", type=positive_integer, metavar="N", help="frames before a block (default: 32)")
    parser.add_argument("--seconds", type=positive_number, metavar="S", help="of each recording (default: all)")
    parser.add_argument("--json", type=path, metavar="F", help="also write the numbers to a file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
