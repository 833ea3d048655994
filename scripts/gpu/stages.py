"""Stages of a run on a GPU: their order, their time, and the child processes of each."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from wavernn_trt.engines.gpu import driver_state
from wavernn_trt.engines.tensorrt_module import build_environment
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.scripts.gpu.choices import PRECISIONS, kernels_with
from wavernn_trt.scripts.gpu.cubins import TRACED_FILES, VARIANTS, build_microbenchmarks, microbenchmarks_program
from wavernn_trt.scripts.gpu.findings import FindingsFile, crashed_kernels, failed_kernels
from wavernn_trt.scripts.gpu.results import timed_rows
from wavernn_trt.scripts.gpu.sanitizer import TOOLS, judge, sanitizer_command
from wavernn_trt.scripts.gpu.session import ROOT, Part, Run
from wavernn_trt.scripts.gpu.tools import find_tool

SECONDS = 450.0
STAGES: dict[str, float] = {
    "load": 15,
    "first": 50,
    "micro": 80,
    "speed": 170,
    "trace": 200,
    "profile": 260,
    "correctness": 400,
    "backend": 450,
}
"""By name, in their order: the second of a run of `SECONDS` at which each ends at the latest. What one leaves, the
following ones have."""
FIRST_SECONDS = 15.0
"""That a kernel's first launches may take at least, imports and context included."""
FIRST_SHARE = 0.45
"""Share of the time for correctness that fp16 may take."""
CELL = "gru_cell"
_TESTS = ROOT / "tests" / "gpu"


def parts_of(run: Run, stage: str, until: float) -> Iterator[Part]:
    """Yields the parts of a stage, each by what was found before it; parts without a process are findings at once."""
    if stage == "load":
        yield run.speed("load", "load")
    elif stage in ("first", "correctness", "backend"):
        if importlib.util.find_spec("pytest") is None or not _TESTS.is_dir():
            run.findings(stage).add("tests", "skipped", f"pytest is not installed, or there is no {_TESTS}")
        else:
            yield from {"first": _first, "correctness": _correctness, "backend": _backend}[stage](run, until)
        if stage == "backend":
            yield from _peers(run, until)
    elif stage == "micro":
        yield from _microbenchmarks(run)
    elif stage == "speed":
        yield from _speed(run)
    elif stage == "trace":
        yield from _trace(run)
    else:
        yield from _profile(run)


def _first(run: Run, until: float) -> Iterator[Part]:
    """Each kernel's smallest cases, in a process for each kernel."""
    tests = str(_TESTS / "test_correctness.py")
    kernels = [kernel for kernel in run.kernels if kernel in kernels_with("fp16")]
    for number, kernel in enumerate(kernels):
        more = ("-k", "first_launches", "--gpu-kernels", kernel, "--gpu-precisions", "fp16", tests)
        seconds = (until - run.elapsed) / (len(kernels) - number)
        yield run.tests(f"first {kernel}", *more, seconds=max(FIRST_SECONDS, seconds))


def _microbenchmarks(run: Run) -> Iterator[Part]:
    target = driver_state().devices[0].sm
    findings = run.findings("microbenchmarks")
    program = microbenchmarks_program(run.cubins or run.work, target)
    if not program.exists():
        try:
            program = build_microbenchmarks(run.work, target)
        except KernelError as error:
            findings.add("microbenchmarks", "skipped", f"there is no prebuilt program, and none can be built: {error}")
            return
    own = run.work / "microbenchmarks_program"
    shutil.copy(program, own)
    own.chmod(0o755)
    report = run.work / "microbenchmarks.json"
    yield Part("microbenchmarks", [str(own), str(report)])
    read_microbenchmarks(findings, report)


def read_microbenchmarks(findings: FindingsFile, report: Path) -> None:
    """Turns the program's JSON lines into findings; the program writes each as soon as it has it."""
    lines = report.read_text().splitlines() if report.exists() else []
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # cut off where the program ended
            continue
        name = str(values.pop("name"))
        text = str(values.pop("skipped", "")) or ", ".join(f"{key} {value}" for key, value in values.items())
        findings.add(name, "skipped" if "skipped" in line else "noted", text, numbers=values)


def _speed(run: Run) -> Iterator[Part]:
    """A process for each kernel, and for each variant of it."""
    for kernel in run.kernels:
        if kernel not in kernels_with("fp16"):
            continue
        for variant in (None, *(name for name, one in VARIANTS.items() if kernel.startswith(one.file))):
            found, name = run.found(), " ".join(filter(None, ("speed", kernel, variant)))
            if kernel in crashed_kernels(found) or (kernel, "fp16") in failed_kernels(found):
                run.findings(name).add("not timed", "skipped", "the kernel failed before")
                continue
            yield run.speed("time", name, "--kernel", kernel, *(("--variant", variant) if variant else ()))


def _trace(run: Run) -> Iterator[Part]:
    """Kernels of the trace build; one that is traced has another name in the findings."""
    for kernel in _sound(run):
        if kernel.startswith(TRACED_FILES):
            yield run.speed("trace", f"trace {kernel}", "--kernel", kernel, "--batches", "1,64,4096", seconds=15.0)


def _profile(run: Run) -> Iterator[Part]:
    ncu = find_tool("ncu")
    if ncu is None:
        run.findings("profile").add("ncu", "skipped", "ncu is not on PATH (Nsight Compute has it)")
        return
    for kernel in _sound(run):
        name = f"profile {kernel}"
        report = run.work / f"{kernel}.ncu-rep"
        # ncu's own default fixes the clocks, which a machine that is shared may not allow.
        options = ["--set", "full", "--clock-control", "none", "--launch-skip", "1", "--launch-count", "4"]
        part = run.speed("once", name, "--kernel", kernel, "--batches", "64", seconds=25.0)
        yield Part(name, [str(ncu), *options, "-f", "-o", str(report.with_suffix("")), *part.command], part.seconds)
        if report.exists():
            run.findings(name).add(report.name, "noted", f"{report.stat().st_size:,} bytes, in the archive of logs")


def _sound(run: Run) -> list[str]:
    """Kernels without a failure in fp16 so far."""
    found = run.found()
    bad = crashed_kernels(found) | {kernel for kernel, precision in failed_kernels(found) if precision == "fp16"}
    return [kernel for kernel in run.kernels if kernel in kernels_with("fp16") and kernel not in bad]


def _fastest(run: Run) -> list[str]:
    """The kernels that were fastest with the fewest and with the most streams; two others where nothing was timed."""
    sound = _sound(run)
    rows = [one for one in timed_rows(run.found()) if one.precision == "fp16"]
    batches = sorted({one.numbers["batch"] for one in rows})
    ends = [
        next(one.kernel for one in rows if one.numbers["batch"] == batch) for batch in (*batches[:1], *batches[-1:])
    ]
    order = [*ends, *reversed(sound)]
    return [kernel for kernel in dict.fromkeys(order) if kernel in sound][:2]


def _correctness(run: Run, until: float) -> Iterator[Part]:
    """fp16 first, then compute-sanitizer over two kernels, then the other precisions."""
    tests = _TESTS / "test_correctness.py"
    chosen = ["-k", "not first_launches and not small_for_sanitizers", str(tests)]
    chosen += ["--gpu-kernels", ",".join((CELL, *run.kernels))]
    for number, precision in enumerate(PRECISIONS):
        share = FIRST_SHARE if number == 0 else 1 / (len(PRECISIONS) - number)
        more = (*chosen, "--gpu-precisions", precision)
        yield run.tests(f"correctness {precision}", *more, seconds=share * (until - run.elapsed))
        if number == 0:
            _sanitizers(run, tests, until, TOOLS[:2])
    _sanitizers(run, tests, until, TOOLS[2:])


def _sanitizers(run: Run, tests: Path, until: float, tools: Sequence[str]) -> None:
    """compute-sanitizer's tools over two kernels; memcheck over each kernel that ended its process, too."""
    sanitizer = find_tool("compute-sanitizer")
    if sanitizer is None:
        text = "compute-sanitizer is not on PATH (the whole CUDA toolkit has it)"
        run.findings("sanitizer").add("compute-sanitizer", "skipped", text)
        return
    crashed = crashed_kernels(run.found()) if TOOLS[0] in tools else set()
    looked_at = [(kernel, TOOLS[0]) for kernel in run.kernels if kernel in crashed]
    for kernel, tool in [*looked_at, *itertools.product(_fastest(run), tools)]:
        name = f"sanitizer {tool} {kernel}"
        log = run.work / f"{tool}_{kernel}_report.log"
        more = ["--gpu-kernels", kernel, "--gpu-precisions", "fp16", "--gpu-test-seconds", "60"]
        more += [f"-c{ROOT / 'setup.cfg'}", f"--rootdir={ROOT}"]
        more += ["--gpu-cubins", str(run.cubins)] if run.cubins else []
        command = sanitizer_command(sanitizer, tool, log, tests, more)
        # Its own exit codes are judged below.
        code, output = run.execute(Part(name, command, 20.0, good=tuple(range(-64, 256))), until)
        if code is not None:
            status, text = judge(tool, code, log.read_text(errors="replace") if log.exists() else "", output)
            run.findings(name).add(tool, status, text, numbers={"exit_code": code})
        run.write()


def _backend(run: Run, until: float) -> Iterator[Part]:
    yield run.tests("backend cuda", str(_TESTS / "test_backend.py"), seconds=0.6 * (until - run.elapsed))
    plans = str(_TESTS / "test_plans.py")
    with tempfile.TemporaryDirectory() as links:
        rtx = build_environment("tensorrt_rtx", Path(links) / "links")
        added = {name: value for name, value in rtx.items() if os.environ.get(name) != value}
        yield run.tests("plans tensorrt_rtx", "-k", "tensorrt_rtx", plans, environment=added)
    yield run.tests("plans tensorrt", "-k", "not tensorrt_rtx", plans)


def _peers(run: Run, until: float) -> Iterator[Part]:
    if importlib.util.find_spec("torch") is None:
        run.findings("peers").add("PyTorch", "skipped", "torch is not installed")
    else:
        yield run.speed("peers", "peers")
    yield run.speed("cells", "cells")
    if importlib.util.find_spec("pytest") is not None and (ROOT / "tests").is_dir():
        _other_tests(run, until)


def _other_tests(run: Run, until: float) -> None:
    """The project's other tests that need a GPU, after all that matters more."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--ignore={_TESTS}"]
    command += [
        f"-c{ROOT / 'setup.cfg'}",
        f"--rootdir={ROOT}",
        f"--basetemp={run.work / 'pytest'}",
        str(ROOT / "tests"),
    ]
    code, output = run.execute(Part("other tests", command, good=(0, 1, 2)), until)
    if code is not None:
        lines = [line for line in output.splitlines() if line.strip()] or [f"pytest ended with {code}"]
        run.findings("other tests").add("pytest -m gpu", "failed" if code else "passed", lines[-1])
