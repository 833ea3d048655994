"""``python -m wavernn_trt.scripts.gpu.run --out FOLDER``: a first run on a GPU; see README.md.

Results are written after every part, so that a run which ends early loses nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from wavernn_trt.engines.gpu import driver_state
from wavernn_trt.plugins.choices import KERNELS
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.targets import TARGETS
from wavernn_trt.scripts.arguments import names_of, path, positive_integers, positive_number
from wavernn_trt.scripts.gpu.cubins import find_tool, prebuild, why_unusable
from wavernn_trt.scripts.gpu.session import ROOT, Part, Run
from wavernn_trt.scripts.gpu.stages import SECONDS, STAGES, parts_of
from wavernn_trt.scripts.gpu.table import lay_out

PROGRAM = "wavernn_trt.scripts.gpu.run"
HOST_BUILD = ROOT / "tests" / "plugins" / "harness" / "host_kernels.py"
"""Builds the kernels for this machine's CPU; only in a clone."""
COMPILE_SHARE = 0.4
"""Largest share of the time for compiling kernels if there are no prebuilt cubins."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit code."""
    arguments = _parse(argv)
    if arguments.prebuild is not None:
        return _prebuild(arguments.prebuild, arguments.targets)
    if arguments.out is None:
        return _fail("--out is missing: a folder for the results")
    if reason := driver_state().reason:
        return _fail(f"there is no GPU to run on: {reason}. '--prebuild FOLDER' compiles the kernels for one")
    work = Path(tempfile.mkdtemp(prefix="wavernn-trt-gpu-"))
    run = Run(arguments.out, work, arguments.seconds, arguments.cubins, arguments.kernels)
    try:
        run.out.mkdir(parents=True, exist_ok=True)
        run.write()
        return execute(run, arguments.only)
    except OSError as error:
        return _fail(f"{run.out}: {error.strerror or error}")
    except KeyboardInterrupt:
        run.write()
        print(f"{PROGRAM}: interrupted; the results so far are in {run.out}", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(work, ignore_errors=True)


def execute(run: Run, stages: Sequence[str]) -> int:
    """Runs some of `STAGES` in their order, writes the results after every part, and prints the table.

    Returns:
        0 if nothing failed, else 1.
    """
    _compile(run)
    host_build = _start_host_build(run) if "correctness" in stages else None
    begin = run.elapsed
    try:
        for stage in (stage for stage in STAGES if stage in stages):
            share = STAGES[stage] / SECONDS if len(stages) > 1 else 1.0
            until = begin + share * (run.seconds - begin)
            for part in parts_of(run, stage, until):
                run.execute(part, until)
                run.write()
            run.write()
    finally:
        if host_build is not None:
            host_build.kill()
            host_build.wait()
    table = "\n".join(lay_out(run.about(), run.found()))
    (run.work / "table.log").write_text(table + "\n")
    run.write()
    print(table, flush=True)
    return int(any(one.status == "failed" for one in run.found()))


def _compile(run: Run) -> None:
    """Compiles all kernels for this GPU if no usable cubins were given; the stages share the remaining time."""
    if (reason := why_unusable(run.cubins)) is None:
        return
    run.findings("compile").add("cubins", "noted", f"{reason}: compiled here")
    run.cubins = run.work / "cubins"
    command = [sys.executable, "-m", PROGRAM, "--prebuild", str(run.cubins)]
    targets = ["--targets", str(driver_state().devices[0].sm)]
    run.execute(Part("compile", [*command, *targets], COMPILE_SHARE * run.seconds), run.seconds)
    run.write()


def _start_host_build(run: Run) -> subprocess.Popen[bytes] | None:
    """Builds the kernels for this machine's CPU, a second reference, while the first parts run."""
    compiles = find_tool("g++") is not None
    if not compiles or not HOST_BUILD.is_file():
        reason = f"there is no {HOST_BUILD}" if compiles else "g++ is not on PATH"
        run.findings("load").add("host build", "skipped", f"{reason}; kernels are not compared with it")
        return None
    run.host_library.parent.mkdir(parents=True)
    return subprocess.Popen([sys.executable, str(HOST_BUILD), str(run.host_library)], stderr=subprocess.DEVNULL)


def _prebuild(folder: Path, targets: Sequence[int]) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        notes = prebuild(folder, targets)
    except (KernelError, OSError) as error:
        return _fail(str(error))
    for note in notes:
        print(note, file=sys.stderr)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {len(list(folder.glob('*.cubin')))} cubins, {size / 2**20:.1f} MiB; give it to --cubins")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description="Launches, times and checks the kernels on this machine's GPU, then prints a table.",
        epilog="exit codes: 0 nothing failed, 1 something did, 2 wrong usage or no GPU, 130 interrupted",
    )
    every = tuple(STAGES)
    parser.add_argument("--out", type=path, metavar="FOLDER", help="for results.json, choices.json, logs.tar.gz")
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=SECONDS,
        metavar="S",
        help="of the whole run (default: %(default).0f)",
    )
    parser.add_argument("--cubins", type=path, metavar="FOLDER", help="of --prebuild (default: compile here)")
    parser.add_argument(
        "--only", type=names_of(every), default=every, metavar="NAMES", help=f"some of {','.join(every)} (default: all)"
    )
    parser.add_argument(
        "--kernels", type=names_of(KERNELS), default=KERNELS, metavar="NAMES", help=f"some of {','.join(KERNELS)} (all)"
    )
    parser.add_argument("--prebuild", type=path, metavar="FOLDER", help="only compile all cubins into this folder")
    parser.add_argument(
        "--targets",
        type=positive_integers,
        default=TARGETS,
        metavar="N,N",
        help=f"compute capabilities of --prebuild (default: {','.join(map(str, TARGETS))})",
    )
    return parser.parse_args(argv)


def _fail(message: str) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
