"""Stages of a run on a GPU: their order, their time limits, and the child processes of each."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from wavernn_trt.engines.gpu import driver_state
from wavernn_trt.engines.tensorrt_module import build_environment
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.scripts.gpu.cases import PRECISIONS, kernels_with
from wavernn_trt.scripts.gpu.cubins import (
    TRACED_FILES,
    VARIANTS,
    build_microbenchmarks,
    find_tool,
    microbenchmarks_program,
)
from wavernn_trt.scripts.gpu.findings import FindingsFile, Status, crashed_kernels, failed_kernels
from wavernn_trt.scripts.gpu.results import timed_rows
from wavernn_trt.scripts.gpu.session import ROOT, Part, Run

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
"""Stages in their order, each with its latest end in a run of `SECONDS`. Time that a stage leaves goes to the next."""
FIRST_SECONDS = 15.0
"""Least time limit of a kernel's first launches, imports and context included."""
FIRST_SHARE = 0.45
"""Share of the time for correctness that fp16 may take."""
CELL = "gru_cell"
TOOLS = ("memcheck", "synccheck", "racecheck", "initcheck")
"""Of compute-sanitizer."""
FOUND_SOMETHING = 86
"""Exit code that compute-sanitizer is given for an error in a kernel."""
_TESTS = ROOT / "tests" / "gpu"


def parts_of(run: Run, stage: str, until: float) -> Iterator[Part]:
    """Yields the parts of a stage. Each depends on earlier findings; what cannot run becomes a finding."""
    if stage == "load":
        yield run.speed("load", "load")
    elif stage in ("first", "correctness", "backend"):
        if not _has_tests():
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
    """The smallest cases of each kernel, one process a kernel."""
    tests = str(_TESTS / "test_correctness.py")
    kernels = [kernel for kernel in run.kernels if kernel in kernels_with("fp16")]
    for number, kernel in enumerate(kernels):
        more = ("-k", "first_launches", "--gpu-kernels", kernel, "--gpu-precisions", "fp16", tests)
        seconds = (until - run.elapsed) / (len(kernels) - number)
        yield run.tests(f"first {kernel}", *more, seconds=max(FIRST_SECONDS, seconds))


def _has_tests() -> bool:
    return importlib.util.find_spec("pytest") is not None and _TESTS.is_dir()


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
    """Turns the program's JSON lines into findings."""
    for line in report.read_text().splitlines() if report.exists() else ():
        try:
            values = json.loads(line)
        except ValueError:  # cut off where the program ended
            continue
        name = str(values.pop("name"))
        text = str(values.pop("skipped", "")) or ", ".join(f"{key} {value}" for key, value in values.items())
        findings.add(name, "skipped" if "skipped" in line else "noted", text, numbers=values)


def _speed(run: Run) -> Iterator[Part]:
    """One process for each kernel and for each variant of it."""
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
    """Kernels of the trace build."""
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
        # By default ncu fixes the clocks, which a shared machine may not permit.
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
    """The fastest kernels with the fewest and with the most streams; any two kernels if nothing was timed."""
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
    """Runs compute-sanitizer's tools over two kernels, and memcheck also over each kernel that crashed."""
    sanitizer = find_tool("compute-sanitizer")
    if sanitizer is None:
        text = "compute-sanitizer is not on PATH (the whole CUDA toolkit has it)"
        run.findings("sanitizer").add("compute-sanitizer", "skipped", text)
        return
    crashed = crashed_kernels(run.found()) if TOOLS[0] in tools else set()
    checked = [(kernel, TOOLS[0]) for kernel in run.kernels if kernel in crashed]
    for kernel, tool in [*checked, *itertools.product(_fastest(run), tools)]:
        name = f"sanitizer {tool} {kernel}"
        log = run.work / f"{tool}_{kernel}_report.log"
        command = [str(sanitizer), f"--tool={tool}", f"--error-exitcode={FOUND_SOMETHING}", f"--log-file={log}"]
        command += [*run.pytest(), "-k", "small_for_sanitizers", str(tests), *run.cubins_option()]
        command += ["--gpu-kernels", kernel, "--gpu-precisions", "fp16", "--gpu-test-seconds", "60"]
        # `judge` interprets the exit code.
        code, output = run.execute(Part(name, command, 20.0, good=tuple(range(-64, 256))), until)
        if code is not None:
            status, text = judge(tool, code, log.read_text(errors="replace") if log.exists() else "", output)
            run.findings(name).add(tool, status, text, numbers={"exit_code": code})
        run.write()


def judge(tool: str, code: int, log: str, output: str) -> tuple[Status, str]:
    """Interprets the end of a tool of compute-sanitizer: its exit code, its report and the output of the tests."""
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", log)
    last = summary[-1] if summary else next((line for line in reversed(output.splitlines()) if line.strip()), "")
    if code == 0 and summary:
        return "passed", last
    if code == FOUND_SOMETHING:
        return "failed", last
    # A tool that cannot attach (permissions, unsupported GPU) does not check the kernels.
    return "failed" if code == 1 and summary else "skipped", f"{tool} ended with {code}: {last[:200]}"


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
    if _has_tests():
        _other_tests(run, until)


def _other_tests(run: Run, until: float) -> None:
    """Runs the project's other tests that need a GPU."""
    command = [*run.pytest(), f"--ignore={_TESTS}", str(ROOT / "tests")]
    code, output = run.execute(Part("other tests", command, good=(0, 1, 2)), until)
    if code is not None:
        lines = [line for line in output.splitlines() if line.strip()] or [f"pytest ended with {code}"]
        run.findings("other tests").add("pytest -m gpu", "failed" if code else "passed", lines[-1])
