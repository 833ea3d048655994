"""``wavernn-trt bench``: how fast a model runs on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavernn_trt.scripts import PROGRAM

BACKENDS = ("onnxruntime", "torch", "tensorrt", "tensorrt-rtx")
SCENARIOS = ("speed", "batch", "stream", "mixed")
DESCRIPTION = """\
Measures how fast a model speaks on this machine.

--scenario speed   fixed batches of equal lengths, beside what the machine could do (a plain
                   matrix product) and beside what WaveRNNs are usually run with (a plain
                   PyTorch loop over samples). Everything is measured in turn, in every
                   round; medians are reported. The default.
--scenario batch   a job of utterances of mixed lengths, all slots kept full; beside it, in
                   the same run, the same work in fixed batches padded to the longest. Some
                   utterances are spoken again alone, and compared bit for bit.
--scenario stream  listeners who read 20 ms every 20 ms: the time to the first frame, and how
                   many can listen without an underrun.
--scenario mixed   listeners beside a batch job: what they hear, and what they cost the job.
"""
EPILOG = """\
examples:
  wavernn-trt bench                                 the voice that is shipped
  wavernn-trt bench --model my-voice --batch 1,16
  wavernn-trt bench --random univoc-896 --json univoc.json
  wavernn-trt bench --backend onnxruntime --batch 1,2,4,8,16,32,64 --json speed.json --plot speed.png
  wavernn-trt bench --plot speed.svg --from speed.json          draw it again
  wavernn-trt bench --scenario batch
  wavernn-trt bench --scenario batch --utterances 2000 --verify all --mels speech/    the load test
  wavernn-trt bench --scenario stream --listeners 1,2,4,8
  wavernn-trt bench --scenario mixed --listeners 4 --backend tensorrt-rtx

exit codes: 0 measured; 1 an utterance failed, or differs from the same alone; 2 wrong usage
"""
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_MEANT_FOR = {
    "repeats": ("speed", "mixed"),
    "seconds": ("speed", "stream", "mixed"),
    "plot": ("speed",),
    "lanes": ("batch", "stream", "mixed"),
    "mels": ("batch", "stream", "mixed"),
    "lengths": ("batch", "stream", "mixed"),
    "utterances": ("batch",),
    "padded_groups": ("batch",),
    "verify": ("batch",),
    "listeners": ("stream", "mixed"),
    "buffer": ("stream", "mixed"),
    "openings": ("stream",),
}
"""Options that have a meaning with some scenarios only."""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    from wavernn_trt.scripts.arguments import path, positive_integer, positive_integers, positive_number
    from wavernn_trt.scripts.bench.models import STANDARD

    parser = subparsers.add_parser(
        "bench",
        help="measure speed on this machine, and against plain PyTorch",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--scenario", choices=SCENARIOS, default="speed", help="default: %(default)s")
    group = parser.add_argument_group("model")
    model = group.add_mutually_exclusive_group()
    model.add_argument("--model", type=path, metavar="DIR", help="model directory (default: the voice that is shipped)")
    model.add_argument(
        "--random",
        choices=sorted(STANDARD),
        metavar="NAME",
        help=f"a standard size with random weights, exported for this run: {', '.join(sorted(STANDARD))}",
    )
    group.add_argument(
        "--backend",
        type=_backends,
        metavar="NAMES",
        help=f"some of {','.join(BACKENDS)} (default: onnxruntime, and torch for speed)",
    )
    group.add_argument(
        "--batch",
        type=positive_integers,
        metavar="NUMBERS",
        help="streams decoded together (speed, default: 1,8,32), or slots (default: 32); an engine takes what it was "
        "built for",
    )
    group.add_argument(
        "--threads", type=positive_integer, metavar="N", help="CPU threads of everything (default: the model's)"
    )
    group.add_argument(
        "--lanes", type=positive_integer, metavar="N", help="lanes that decode at the same time; not for speed"
    )
    time = parser.add_argument_group("how long")
    time.add_argument(
        "--seconds",
        type=positive_number,
        metavar="S",
        help="speed: of speech of each stream in a repeat (default: 0.25); PyTorch gets at most 0.1. stream, mixed: "
        "of each measurement (default: 10)",
    )
    time.add_argument("--repeats", type=positive_integer, metavar="N", help="speed: default 5; mixed: default 2")
    speech = parser.add_argument_group("speech of batch, stream and mixed")
    speech.add_argument(
        "--mels",
        type=path,
        nargs="+",
        metavar="PATH",
        help="mels or recordings that utterances are cut from, as vocode takes them (default: the sample that is "
        "shipped; for other models noise)",
    )
    speech.add_argument(
        "--lengths",
        type=_lengths,
        metavar="FROM:TO",
        help="seconds of an utterance, spread evenly in their logarithm (default: 0.2:20; for stream 1:4)",
    )
    load = parser.add_argument_group("batch")
    load.add_argument(
        "--utterances", type=positive_integer, metavar="N", help="default: 128; the load test of this project: 2000"
    )
    load.add_argument(
        "--padded-groups",
        type=_count,
        metavar="N",
        help="fixed batches to decode, evenly spread over the job; 0: none (default: as many as take about as long as "
        "the job)",
    )
    load.add_argument(
        "--verify",
        type=_verify,
        metavar="N|all",
        help="utterances to speak again alone (default: 16); all: the beginnings of all, and 16 to their end",
    )
    listening = parser.add_argument_group("stream and mixed")
    listening.add_argument(
        "--listeners",
        type=positive_integers,
        metavar="NUMBERS",
        help="at a time (default: 1,2,4,8,16 in turn; for mixed one number, 4)",
    )
    listening.add_argument(
        "--buffer",
        type=positive_number,
        metavar="MS",
        help="how long a listener waits behind its first frame before it begins to play (default: not at all)",
    )
    listening.add_argument(
        "--openings",
        type=positive_integer,
        metavar="N",
        help="stream: streams opened with nobody else there, for the time to the first frame (default: 50)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=path, metavar="F", help="also write everything, each repeat included, to a file")
    output.add_argument(
        "--plot",
        type=path,
        metavar="FILE",
        help="speed: also draw throughput and latency against the batch size, a .png or .svg (needs the extra 'plot')",
    )
    output.add_argument(
        "--from", type=path, dest="source", metavar="F", help="with --plot: draw what --json wrote; measure nothing"
    )
    output.add_argument("-q", "--quiet", action="store_true", help="do not say on stderr what is being measured")


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints; returns 0, or 1 where an utterance failed or differs from the same utterance alone.

    Raises:
        ValueError: a mistake in the arguments.
    """
    _check(arguments)
    if arguments.source is not None:
        from wavernn_trt.scripts.bench.plot import draw, read_report

        draw(read_report(arguments.source), arguments.plot)
        return 0
    numpy_limited = arguments.threads is not None and _limit_numpy(arguments.threads)
    say = _silent if arguments.quiet else _say
    with tempfile.TemporaryDirectory() as folder:
        path = _model(arguments, Path(folder))
        if arguments.scenario == "speed":
            from wavernn_trt.scripts.bench.report import lay_out
            from wavernn_trt.scripts.bench.speed import measure_speed

            report, sound = measure_speed(arguments, path, say, numpy_limited=numpy_limited), True
        else:
            from wavernn_trt.scripts.bench.scenario_report import lay_out_scenario as lay_out
            from wavernn_trt.scripts.bench.scenarios import is_sound, measure_scenario

            report = measure_scenario(arguments, path, say)
            sound = is_sound(report)
    say("")
    report["model"]["random"] = arguments.random
    print("\n".join(lay_out(report)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.plot is not None:
        from wavernn_trt.scripts.bench.plot import draw

        draw(report, arguments.plot)
    if not sound:
        print(f"{PROGRAM}: error: not everything was spoken, or not as it is alone; see the report", file=sys.stderr)
    return 0 if sound else 1


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what cannot be meant, before hours of work."""
    for name, scenarios in _MEANT_FOR.items():
        if getattr(arguments, name) is not None and arguments.scenario not in scenarios:
            option = f"--{name.replace('_', '-')}"
            wanted = " or ".join(f"--scenario {one}" for one in scenarios)
            raise ValueError(f"{option}: found it with --scenario {arguments.scenario}, expected {wanted}")
    if arguments.source is not None and arguments.plot is None:
        raise ValueError("--from: found it without --plot, expected the file to draw to")
    if arguments.json is not None:
        if not arguments.json.parent.is_dir():
            raise ValueError(f"--json: {arguments.json.parent} is not a folder")
        if arguments.json.is_dir():
            raise ValueError(f"--json: found the folder {arguments.json}, expected a file's name")
    if arguments.plot is not None:
        from wavernn_trt.scripts.bench.plot import check_drawing

        check_drawing(arguments.plot)


def _model(arguments: argparse.Namespace, folder: Path) -> Path:
    """The model directory, made first if its weights are to be random."""
    from wavernn_trt.runtime.vocoder import shipped_voice

    if not arguments.random:
        return arguments.model or shipped_voice()
    from wavernn_trt.scripts.bench.models import export_random

    if not arguments.quiet:
        _say(f"exporting {arguments.random} with random weights")
    return export_random(arguments.random, folder)


def _backends(text: str) -> Sequence[str]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in BACKENDS:
            raise argparse.ArgumentTypeError(f"found {name!r}, expected some of {','.join(BACKENDS)}")
    return names


def _lengths(text: str) -> tuple[float, float]:
    from wavernn_trt.scripts.arguments import positive_number

    words = text.split(":")
    try:
        shortest, longest = map(positive_number, words)
        if shortest <= longest:
            return shortest, longest
    except (argparse.ArgumentTypeError, ValueError):
        pass
    raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds from the shortest to the longest: 0.2:20")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer from 0 on")
    return int(text)


def _verify(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return _count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or all") from None


def _limit_numpy(threads: int) -> bool:
    """Makes numpy use that many threads, where it is not loaded yet; returns whether that was possible."""
    if "numpy" in sys.modules:
        return False
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    return True


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)  # one line that is written over
    elif line:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    pass
