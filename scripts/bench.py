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

BACKENDS = ("onnxruntime", "torch")
DESCRIPTION = """\
Measures how fast a model speaks on this machine, beside what the machine could do (a plain
matrix product) and beside what WaveRNNs are usually run with (a plain PyTorch loop over
samples). Everything is measured in turn, in every round; medians are reported.
"""
EPILOG = """\
examples:
  wavernn-trt bench                                 the voice that is shipped
  wavernn-trt bench --model my-voice --batch 1,16
  wavernn-trt bench --random univoc-896 --json univoc.json
"""
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    from wavernn_trt.scripts.arguments import positive_integer, positive_integers, positive_number
    from wavernn_trt.scripts.bench_models import STANDARD

    parser = subparsers.add_parser(
        "bench",
        help="measure speed on this machine, and against plain PyTorch",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, metavar="DIR", help="model directory (default: the voice that is shipped)")
    model.add_argument(
        "--random",
        choices=sorted(STANDARD),
        metavar="NAME",
        help=f"a standard size with random weights, exported for this run: {', '.join(sorted(STANDARD))}",
    )
    parser.add_argument(
        "--backend", type=_backends, default=BACKENDS, metavar="NAMES", help="default: onnxruntime,torch"
    )
    parser.add_argument(
        "--batch", type=positive_integers, default=(1, 8, 32), metavar="NUMBERS", help="default: 1,8,32"
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=0.25,
        metavar="S",
        help="of speech of each stream in a repeat (default: %(default)s); PyTorch gets at most 0.1",
    )
    parser.add_argument("--repeats", type=positive_integer, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--threads", type=positive_integer, metavar="N", help="CPU threads of everything (default: the model's)"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="also write everything, each repeat included, to a file")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not say on stderr what is being measured")


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints; returns 0.

    Raises:
        ValueError: a mistake in the arguments.
    """
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise ValueError(f"--json: {arguments.json.parent} is not a folder")
    limited = arguments.threads is not None and _limit_numpy(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        report = _measure(arguments, limited, Path(folder))
    from wavernn_trt.scripts.bench_report import lay_out

    print("\n".join(lay_out(report)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _measure(arguments: argparse.Namespace, numpy_limited: bool, folder: Path) -> dict[str, Any]:
    from wavernn_trt.export.model_directory import open_model_directory
    from wavernn_trt.runtime.executors.onnx_runtime import default_threads
    from wavernn_trt.runtime.vocoder import VocoderConfig, shipped_voice
    from wavernn_trt.scripts.bench_machine import describe_machine, describe_versions, usable_cores
    from wavernn_trt.scripts.bench_measure import measure
    from wavernn_trt.scripts.bench_models import export_random
    from wavernn_trt.scripts.bench_report import reduce

    say = _silent if arguments.quiet else _say
    if arguments.random:
        say(f"exporting {arguments.random} with random weights")
        path = export_random(arguments.random, folder)
    else:
        path = arguments.model or shipped_voice()
    directory = open_model_directory(path)
    threads = arguments.threads or default_threads(directory.model.multiply_adds)
    numpy_threads = threads if numpy_limited else usable_cores()
    measured = measure(
        path,
        arguments.backend,
        arguments.batch,
        seconds=arguments.seconds,
        repeats=arguments.repeats,
        threads=threads,
        report=say,
    )
    say("")
    report = {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "threads": threads,
        "numpy_threads": numpy_threads,
        "repeats": arguments.repeats,
        "seconds": arguments.seconds,
        **reduce(VocoderConfig(path, directory.model, directory.audio), measured, with_numpy=numpy_threads == threads),
    }
    report["model"]["random"] = arguments.random
    return report


def _backends(text: str) -> Sequence[str]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in BACKENDS:
            raise argparse.ArgumentTypeError(f"found {name!r}, expected some of {','.join(BACKENDS)}")
    return names


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
