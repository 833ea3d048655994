"""``wavernn-trt score``: measures how well a model fits recordings of speech."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wavernn_trt.scripts import notice
from wavernn_trt.scripts.arguments import (
    add_command,
    comma_separated,
    path,
    positive_integer,
    positive_number,
    seed,
)

if TYPE_CHECKING:
    from wavernn_trt.calibration.likeness import Likeness
    from wavernn_trt.calibration.score import Fit, Speech
    from wavernn_trt.export.operators import NativePrecision
    from wavernn_trt.runtime.loaded_model import LoadedModel
    from wavernn_trt.runtime.vocoder import Vocoder

DESCRIPTION = """\
Scores a model on recordings, ideally on ones that were not in its training data:

  bits         teacher-forced negative log-likelihood in bits per sample; lower is better.
               Comparable only between models of the same sample rate and number of classes.
  correlation  Pearson correlation, over all bins and frames, between the log-mels of the
               recording and of the model's free-running output for its mel; 1 is perfect.
  MCD          mean mel-cepstral distortion of that output in dB, over frames with speech.
  level        of that output in dB, relative to the recording.
  clipped      share of its samples outside [-1, 1].

With --judge (extra 'judge'), also the error of its pitch:

  f0           root mean square error of the fundamental frequency in cents, where both are voiced.
  voicing      share of frames that are voiced in only one of the two.

and with --transcripts the share of English words that a speech recogniser gets wrong in the output
and, after the slash, in the recording itself. One seed is one of many possible outputs: --seeds 3
measures three, and prints the range of their totals below the means.

With --precision, measures the loss of lower precision in the decoder's matrix products: one row
per precision, with the loss in bits against fp32. Engines compute in fp16 or bf16. int8 and fp8
need the table of 'wavernn-trt calibrate'; int8-weights and fp8-weights quantise only the weights.
With --backend native, bf16 and int8 are those of the native CPU decoder, which needs no table.
"""
EPILOG = """\
examples:
  wavernn-trt score my-voice kept-out/ --seconds 3
  wavernn-trt score my-voice clip.wav --teacher-forced-only
  wavernn-trt score my-voice kept-out/ --seeds 3 --transcripts metadata.csv
  wavernn-trt score my-voice kept-out/ --precision fp32,fp16,int8,fp8 --table my-voice.json
"""


@dataclass
class _File:
    path: Path
    error: str | None = None
    warnings: tuple[str, ...] = ()
    fit: Fit | None = None
    likenesses: dict[int, Likeness] = field(default_factory=dict)
    """By seed."""


@dataclass
class _Run:
    """A vocoder and the files to score; each of the two measures reads all files."""

    vocoder: Vocoder
    files: list[_File]
    texts: Mapping[str, str]
    """Name of a recording -> what is spoken in it."""
    opened: list[_File] = field(default_factory=list)
    """Files that the current pass has read."""

    def usable(self) -> list[Path]:
        """Returns the files that have not failed."""
        return [file.path for file in self.files if file.error is None]

    def speeches(self) -> Iterator[Speech]:
        """Reads the files that have not failed, and appends them to ``opened``."""
        from wavernn_trt.calibration.errors import reason_of
        from wavernn_trt.calibration.score import analyse
        from wavernn_trt.runtime.files.recording import read_recording

        self.opened.clear()
        for file in self.files:
            if file.error is not None:
                continue
            try:
                recording = read_recording(file.path)
                file.warnings = recording.warnings
                speech = analyse(self.vocoder.loaded.audio, recording.samples, recording.sample_rate)
                speech = replace(speech, text=self.texts.get(file.path.stem))
            except Exception as error:  # a bad file does not stop the others
                file.error = reason_of(error)
            else:
                self.opened.append(file)
                yield speech


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = add_command(subparsers, "score", run, DESCRIPTION, EPILOG)
    parser.add_argument(
        "model", type=path, metavar="DIR", help="model directory; with --backend torch also a checkpoint"
    )
    parser.add_argument("speech", nargs="+", type=path, metavar="SPEECH", help="recordings, or folders of them")
    parser.add_argument(
        "--backend", default="onnxruntime", metavar="NAME", help="onnxruntime, native or torch (default: %(default)s)"
    )
    parser.add_argument("--threads", type=positive_integer, metavar="N", help="CPU threads (default: the backend's)")
    parser.add_argument(
        "--batch", type=positive_integer, metavar="N", help="recordings decoded together (default: 8; torch: 1)"
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="random seed of the free-running output (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=positive_integer,
        default=1,
        metavar="N",
        help="number of outputs per recording, with successive seeds (default: %(default)s)",
    )
    parser.add_argument("--judge", action="store_true", help="also measure f0 and voicing; slower")
    parser.add_argument(
        "--transcripts",
        type=path,
        metavar="FILE",
        help="texts of the recordings, a line each: NAME|text or, as in LJ Speech, NAME|text|normalised text; "
        "with --judge's measures, counts wrong words",
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        metavar="S",
        help="seconds of free-running output per file, in which no words are counted (default: all)",
    )
    parser.add_argument(
        "--precision",
        type=comma_separated,
        metavar="P,…",
        help="also score in these precisions: fp16, bf16, int8, fp8, int8-weights, fp8-weights; bf16 and int8 with the "
        "backend native",
    )
    parser.add_argument(
        "--table", type=path, metavar="TABLE", help="activation ranges for int8 and fp8, from 'wavernn-trt calibrate'"
    )
    parser.add_argument("--teacher-forced-only", action="store_true", help="measure bits only, in half the time")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Prints the scores; returns 0, or 1 if some files failed.

    Raises:
        ValueError: wrong arguments, before any work is done.
    """
    if arguments.precision is not None:
        return _run_precisions(arguments)
    if arguments.table is not None:
        raise ValueError("--table: found no --precision, expected int8 or fp8, which need the table")
    from wavernn_trt.runtime.vocoder import Vocoder
    from wavernn_trt.scripts.recordings import find_recordings

    paths = find_recordings(arguments.speech)
    vocoder = Vocoder.load(arguments.model, arguments.backend, batch=arguments.batch, threads=arguments.threads)
    report = _score(vocoder, paths, arguments)
    _print_problems(report["files"])
    print(json.dumps(report, indent=1) if arguments.json else "\n".join(_table(report)))
    return 1 if report["totals"]["failed"] else 0


def _run_precisions(arguments: argparse.Namespace) -> int:
    from wavernn_trt.runtime.vocoder import Vocoder
    from wavernn_trt.scripts.recordings import find_recordings

    paths = find_recordings(arguments.speech)
    names = tuple(dict.fromkeys(("fp32", *arguments.precision)))  # the first is the reference for the loss
    if arguments.backend == "native":
        models = _native_models(arguments, names)
    elif arguments.backend == "onnxruntime":
        models = _rounded_models(arguments, names)
    else:
        raise ValueError("--precision: available only with the backends onnxruntime and native; leave --backend out")
    reports: dict[str, dict[str, Any]] = {}
    for name, model in zip(names, models, strict=True):
        with model as loaded, Vocoder(loaded) as vocoder:
            report = _score(vocoder, paths, arguments, f"{name} ")
        reports[name] = {**report, "model": str(arguments.model), "precision": name}
        bits, float32 = report["totals"]["bits"], reports["fp32"]["totals"]["bits"]
        report["totals"]["loss"] = None if None in (bits, float32) else bits - float32
    _print_problems(
        {
            entry["input"]: entry
            for report in reports.values()
            for entry in report["files"]
            if entry["error"] or entry["warnings"]
        }.values()
    )
    print(json.dumps(list(reports.values()), indent=1) if arguments.json else "\n".join(_precision_table(reports)))
    return 1 if any(report["totals"]["failed"] for report in reports.values()) else 0


def _native_models(arguments: argparse.Namespace, names: Sequence[str]) -> list[AbstractContextManager[LoadedModel]]:
    """The model in the native decoder, with weights in each precision."""
    from wavernn_trt.export.operators import NATIVE_PRECISIONS
    from wavernn_trt.runtime.load_options import LoadOptions
    from wavernn_trt.runtime.loaded_model import load_model

    for name in names:
        if name not in NATIVE_PRECISIONS:
            expected = ", ".join(NATIVE_PRECISIONS)
            raise ValueError(f"--precision: found {name!r} with --backend native, expected {expected}")
    if arguments.table is not None:
        raise ValueError("--table: found with --backend native, which needs no ranges of activations")
    options = [
        LoadOptions("native", arguments.batch, arguments.threads, cast("NativePrecision", name)) for name in names
    ]
    return [nullcontext(load_model(arguments.model, option)) for option in options]


def _rounded_models(arguments: argparse.Namespace, names: Sequence[str]) -> list[AbstractContextManager[LoadedModel]]:
    """The model in ONNX Runtime, with products rounded to each precision."""
    from wavernn_trt.scripts.extras import need_onnx

    need_onnx("score --precision")
    from wavernn_trt.calibration.loss import rounded_model
    from wavernn_trt.calibration.precisions import quantization_of
    from wavernn_trt.calibration.quantize import check_unquantized
    from wavernn_trt.calibration.table import read_table
    from wavernn_trt.export.model_directory import open_model_directory

    directory = open_model_directory(arguments.model)
    check_unquantized(directory)
    table = None if arguments.table is None else read_table(arguments.table)
    if table is not None:
        table.check(directory)
    roundings = [quantization_of(name, directory.model, table) for name in names]
    return [
        rounded_model(directory, quantization, batch=arguments.batch, threads=arguments.threads)
        for quantization in roundings
    ]


def _score(vocoder: Vocoder, paths: Sequence[Path], arguments: argparse.Namespace, title: str = "") -> dict[str, Any]:
    from wavernn_trt.calibration.judge import Judge, read_transcripts
    from wavernn_trt.calibration.score import compare_speech, fit_speech, seconds_to_samples
    from wavernn_trt.scripts.progress import file_bar

    audio, hidden = vocoder.config.audio, arguments.quiet
    seconds_to_samples(arguments.seconds, vocoder.sample_rate)
    judge = Judge() if arguments.judge or arguments.transcripts else None
    texts = read_transcripts(arguments.transcripts) if arguments.transcripts else {}
    job = _Run(vocoder, [_File(path) for path in paths], texts)
    seeds = [] if arguments.teacher_forced_only else range(arguments.seed, arguments.seed + arguments.seeds)
    started = time.perf_counter()
    with file_bar(f"{title}bits", job.usable(), audio, hidden=hidden) as bar:
        for index, fit in fit_speech(vocoder.loaded, job.speeches(), bar.decoded):
            job.opened[index].fit = fit
    if seeds:
        files = job.usable() * len(seeds)
        with file_bar(f"{title}correlation", files, audio, limit=arguments.seconds, hidden=hidden) as bar:
            likenesses = compare_speech(
                vocoder, job.speeches(), seeds=seeds, seconds=arguments.seconds, judge=judge, progress=bar.decoded
            )
            for index, seed, likeness in likenesses:
                job.opened[index].likenesses[seed] = likeness
    return _report(job, seeds, time.perf_counter() - started)


def _print_problems(entries: Iterable[dict[str, Any]]) -> None:
    for entry in entries:
        for warning in entry["warnings"]:
            notice(f"warning: {entry['input']}: {warning}")
        if entry["error"] is not None:
            notice(f"failed: {entry['input']}: {entry['error'].removeprefix(entry['input'] + ': ')}")


def _report(job: _Run, seeds: Sequence[int], elapsed: float) -> dict[str, Any]:
    from wavernn_trt.calibration.likeness import Likeness

    rate = job.vocoder.sample_rate
    fits = [file.fit for file in job.files if file.fit is not None]
    sums = {
        seed: sum((file.likenesses[seed] for file in job.files if seed in file.likenesses), Likeness())
        for seed in seeds
    }
    samples = sum(fit.samples for fit in fits)
    return {
        "model": str(job.vocoder.config.path),
        "backend": job.vocoder.backend,
        "seeds": list(seeds),
        "sample_rate": rate,
        "files": [_entry(file, rate) for file in job.files],
        "totals": {
            "scored": sum(file.error is None for file in job.files),
            "failed": sum(file.error is not None for file in job.files),
            "bits": sum(fit.bits for fit in fits) / samples if samples else None,
            "samples": samples,
            "seconds": samples / rate,
            **_means(list(sums.values())),
            "by_seed": {seed: likeness.measures() for seed, likeness in sums.items()},
            "spoken": sum(each.samples for each in sums.values()) / rate,
            "elapsed": round(elapsed, 3),
        },
    }


def _entry(file: _File, rate: int) -> dict[str, Any]:
    return {
        "input": str(file.path),
        "bits": file.fit.bits / file.fit.samples if file.fit else None,
        "samples": file.fit.samples if file.fit else 0,
        "seconds": file.fit.samples / rate if file.fit else 0.0,
        **_means(list(file.likenesses.values())),
        "spoken": sum(each.samples for each in file.likenesses.values()) / rate,
        "error": file.error,
        "warnings": list(file.warnings),
    }


def _means(likenesses: Sequence[Likeness]) -> dict[str, float | None]:
    """Returns the mean of each measure; ``None`` where it is missing from an output or there is none."""
    from wavernn_trt.calibration.likeness import Likeness

    measures = [likeness.measures() for likeness in likenesses]
    means: dict[str, float | None] = {}
    for name in Likeness().measures():
        values = [each[name] for each in measures]
        known = [value for value in values if value is not None]
        means[name] = sum(known) / len(known) if known and len(known) == len(values) else None
    return means


_Column = tuple[str, Callable[[Mapping[str, Any]], str]]
"""Title of a column, and its cell for an entry of the report."""


def _columns(report: Mapping[str, Any]) -> Iterator[_Column]:
    def cell(name: str, form: str, factor: float = 1.0) -> Callable[[Mapping[str, Any]], str]:
        return lambda entry: "-" if entry[name] is None else format(factor * entry[name], form)

    totals = report["totals"]
    yield "bits", cell("bits", ".4f")
    yield "correlation", cell("correlation", ".4f")
    yield "MCD/dB", cell("distortion_db", ".2f")
    yield "level/dB", cell("level_db", "+.1f")
    yield "clipped", cell("clipped", ".3%")
    if totals["voicing_error"] is not None:
        yield "f0/cents", cell("f0_error_cents", ".0f")
        yield "voicing", cell("voicing_error", ".1%")
    if totals["words_wrong"] is not None:
        output, recording = cell("words_wrong", ".1%"), cell("recording_words_wrong", ".1%")
        yield "words wrong", lambda entry: f"{output(entry)}/{recording(entry)}"
    yield "seconds", cell("seconds", ".2f")


def _table(report: dict[str, Any]) -> Iterator[str]:
    totals, seeds = report["totals"], report["totals"]["by_seed"].values()
    rows = [(entry, entry["input"]) for entry in report["files"] if entry["error"] is None]
    rows.append((totals, f"all {totals['scored']} ({report['backend']})"))
    if len(seeds) > 1:
        for title, choose in (("least", min), ("most", max)):
            row = dict(totals)
            for name in next(iter(seeds)):
                values = [each[name] for each in seeds]
                row[name] = None if None in values else choose(values)
            rows.append((row, f"{title} of {len(seeds)} seeds"))
    columns = []
    for title, cell in _columns(report):
        cells = [title, *(cell(entry) for entry, _ in rows)]
        width = max(map(len, cells))
        columns.append([text.rjust(width) for text in cells])
    columns.append(["recording", *(name for _, name in rows)])
    for line in zip(*columns, strict=True):
        yield "  ".join(line)


def _precision_table(reports: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    yield f"{'precision':<12}  {'bits':>8}  {'loss':>8}  {'correlation':>11}  {'seconds':>8}  {'took':>8}"
    for name, report in reports.items():
        totals = report["totals"]
        cells = [
            "-" if value is None else format(value, form)
            for value, form in ((totals["bits"], ".4f"), (totals["loss"], "+.4f"), (totals["correlation"], ".4f"))
        ]
        yield (
            f"{name:<12}  {cells[0]:>8}  {cells[1]:>8}  {cells[2]:>11}  {totals['seconds']:>8.2f}  "
            f"{totals['elapsed']:>6.1f} s"
        )
