"""``python -m wavernn_trt.scripts.gpu``: checks and times the kernels on this machine's GPU; README.md has the rest."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from wavernn_trt.plugins.forms import KERNELS
from wavernn_trt.scripts.arguments import path, positive_number
from wavernn_trt.scripts.gpu.parts import PARTS, Part, part_named
from wavernn_trt.scripts.gpu.report import lay_out
from wavernn_trt.scripts.gpu.tasks import CORRECTNESS, Finding, Settings, lost, proved

PROGRAM = "wavernn_trt.scripts.gpu"
SECONDS = 450.0
RESULTS = {"all": "gpu.json", "sanitizer": "gpu_subset.json"}
"""By subset: a sanitizer's run shares the folder of the run that started it."""
DESCRIPTION = """\
Compiles the kernels for this machine's GPU, compares them with their references, looks for
races, asks TensorRT whether it takes the GPU, and times what was right. Prints one table last.
"""
EPILOG = "exit codes: 0 nothing failed, 1 something did, 2 wrong usage or no GPU, 130 interrupted"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    arguments = _parse(argv)
    settings = Settings(arguments.out or Path(), arguments.host, arguments.subset, kernels=arguments.kernels)
    parts = _parts(arguments)
    if arguments.list:
        return _list(parts, settings, arguments.seconds)
    if arguments.out is None:
        return _complain("--out is missing: a folder for the results")
    if not arguments.host and (reason := _no_gpu()):
        return _complain(
            f"there is no GPU to run on: {reason}. '--host' checks the kernels' host build in its place, and '--list' "
            "shows what a GPU would be asked"
        )
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        return _run(parts, settings, arguments.seconds)
    except OSError as error:
        return _complain(f"{settings.folder}: {error.strerror or error}")
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; what was found until then is in {settings.folder}", file=sys.stderr)
        return 130


def _run(parts: Sequence[Part], settings: Settings, seconds: float) -> int:
    started, date = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    findings: list[Finding] = []
    for part in parts:
        left = seconds - (time.monotonic() - started)
        findings += _findings(part, settings, min(left, part.share * seconds) if len(parts) > 1 else left)
        settings = dataclasses.replace(settings, proved=proved(findings), lost=lost(findings))
        report = {
            "date": date,
            "seconds": time.monotonic() - started,
            "host": settings.host,
            "subset": settings.subset,
        }
        values = {**report, "findings": [dataclasses.asdict(found) for found in findings]}
        (settings.folder / RESULTS[settings.subset]).write_text(json.dumps(values, indent=1) + "\n")
    print("\n".join(lay_out(report, findings)), flush=True)
    return int(any(found.status == "failed" for found in findings))


def _findings(part: Part, settings: Settings, seconds: float) -> list[Finding]:
    """A part's, from a process of its own; a subset runs in this one, which a sanitizer then watches."""
    if settings.subset == "all":
        from wavernn_trt.scripts.gpu.supervisor import run_part

        return run_part(part, settings, seconds, _say)
    from wavernn_trt.scripts.gpu.worker import outcomes

    tasks = part.tasks(settings)
    answers = outcomes(part, tasks, settings, time.monotonic() + seconds)
    return [Finding.of(part.name, task, outcome) for task, outcome in zip(tasks, answers, strict=True)]


def _parts(arguments: argparse.Namespace) -> list[Part]:
    """Those asked for; the host build and subsets are about correctness alone."""
    if arguments.host or arguments.subset != "all":
        return [part_named(CORRECTNESS)]
    return [part for part in PARTS if part.name in arguments.only]


def _list(parts: Sequence[Part], settings: Settings, seconds: float) -> int:
    """Each part with the seconds that it may take; what one leaves, the others have."""
    from wavernn_trt.scripts.gpu.worker import describe

    for part in parts:
        lines = describe(part, settings)
        print(f"{part.name}: {len(lines)}, at most {min(1.0, part.share) * seconds:.0f} s")
        print("\n".join(f"  {line}" for line in lines))
    return 0


def _no_gpu() -> str | None:
    from wavernn_trt.engines.gpu import driver_state

    return driver_state().reason


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    known = [part.name for part in PARTS]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"found {name!r}, expected some of {','.join(known)}")
    return names


def _kernels(text: str) -> tuple[str, ...]:
    names, known = tuple(text.split(",")), ("gru_cell", *KERNELS)
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"found {name!r}, expected some of {','.join(known)}")
    return names


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every = tuple(part.name for part in PARTS)
    parser.add_argument("--out", type=path, metavar="FOLDER", help="for gpu.json, logs and compiled kernels")
    parser.add_argument(
        "--seconds", type=positive_number, default=SECONDS, metavar="S", help="for all of it (default: %(default).0f)"
    )
    parser.add_argument(
        "--only", type=_names, default=every, metavar="NAMES", help=f"some of {','.join(every)} (default: all)"
    )
    parser.add_argument(
        "--kernels", type=_kernels, default=(), metavar="NAMES", help=f"some of gru_cell,{','.join(KERNELS)} (all)"
    )
    parser.add_argument("--subset", choices=("all", "sanitizer"), default="all", help="sanitizer: few, small cases")
    parser.add_argument("--host", action="store_true", help="check the kernels' host build; needs g++ and no GPU")
    parser.add_argument("--list", action="store_true", help="show what would be run")
    return parser.parse_args(argv)


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:110]}", end="", file=sys.stderr, flush=True)


def _complain(message: str) -> int:
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
