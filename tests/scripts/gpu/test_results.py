"""Findings of a run on a GPU: which kernels are launched next, the table, the choices, the archive, and cubins."""

from __future__ import annotations

import dataclasses
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavernn_trt.plugins.choices import KERNELS, read_rows
from wavernn_trt.plugins.compilers import Compiled
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.scripts.gpu import cubins, results, stages
from wavernn_trt.scripts.gpu.cases import STANDARD
from wavernn_trt.scripts.gpu.findings import Finding, FindingsFile, failed_kernels, proved_kernels
from wavernn_trt.scripts.gpu.results import choices, write_results
from wavernn_trt.scripts.gpu.session import ROOT, Run
from wavernn_trt.scripts.gpu.stages import judge
from wavernn_trt.scripts.gpu.table import lay_out, verdict
from wavernn_trt.scripts.gpu.trace import stage_cycles

ABOUT = {"date": "2000-01-01", "seconds": 300.0}


def timed(kernel: str, batch: int, step_us: float, precision: str = "fp16") -> Finding:
    model = next(iter(STANDARD))
    speed = batch / step_us * 1e6
    numbers = {"kind": "kernel", "model": model, "batch": batch, "groups": 12, "steps": 1024, "step_us": step_us}
    numbers |= {"samples_per_second": speed, "flops": 1.08e14, "repeats": [step_us, 1.04 * step_us]}
    return Finding("speed", f"{kernel} {batch}", "noted", "", kernel, precision, numbers=numbers)


def peer(kind: str, batch: int, speed: float) -> Finding:
    numbers = {"kind": kind, "model": next(iter(STANDARD)), "batch": batch, "samples_per_second": speed}
    return Finding("peers", f"{kind} {batch}", "noted", numbers=numbers)


def test_kernels_whose_first_launches_failed_are_not_timed(run: Run) -> None:
    kernels = [kernel for kernel in KERNELS if kernel in stages.kernels_with("fp16")]
    run.findings("first").add("test", "failed", "wrong", kernel=kernels[0], precision="fp16")
    run.findings("first").add("test", "passed", kernel=kernels[1], precision="fp16")
    parts = [part.name for part in stages.parts_of(run, "speed", 60.0)]
    assert f"speed {kernels[0]}" not in parts
    assert f"speed {kernels[1]}" in parts
    assert run.found()[-1].text == "the kernel failed before"


def test_sanitizers_run_the_fastest_kernels_and_those_that_crashed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = ("one", "two", "three")
    run.kernels = kernels
    monkeypatch.setattr(stages, "kernels_with", lambda precision: list(kernels))
    monkeypatch.setattr(results, "KERNELS", kernels)
    findings = [timed(kernels[0], 1, 5.0), timed(kernels[1], 1, 4.0), timed(kernels[0], 8, 9.0)]
    for one in findings:
        run.findings("speed").add(one.name, one.status, kernel=one.kernel, precision="fp16", numbers=one.numbers)
    run.findings("first").begin("launch", kernels[2], "fp16")
    monkeypatch.setattr(stages, "find_tool", lambda name: Path(sys.executable))
    stages._sanitizers(run, ROOT / "tests", run.elapsed, ("memcheck", "synccheck"))
    parts = [one.part for one in run.found() if one.part.startswith("sanitizer")]
    assert parts == [
        f"sanitizer memcheck {kernels[2]}",
        *(f"sanitizer {tool} {kernels[i]}" for i in (1, 0) for tool in ("memcheck", "synccheck")),
    ]


def test_findings_can_be_read_where_the_last_line_is_incomplete(tmp_path: Path) -> None:
    file = FindingsFile(tmp_path / "findings.jsonl", "part")
    file.begin("one", "stepped", "fp16")
    file.add("one", "passed")
    with file.path.open("a") as stream:
        stream.write('{"part": "part", "na')
    assert [(one.name, one.kernel, one.status) for one in file.read()] == [("one", "stepped", "passed")]


def test_only_the_stage_correctness_proves_a_kernel() -> None:
    first = Finding("first stepped", "a", "passed", kernel="stepped", precision="fp16")
    right = dataclasses.replace(first, part="correctness fp16")
    wrong = dataclasses.replace(right, status="failed")
    assert proved_kernels([first], "correctness") == set()
    assert proved_kernels([first, right], "correctness") == {("stepped", "fp16")}
    assert proved_kernels([right, wrong], "correctness") == set()
    assert failed_kernels([right, wrong]) == {("stepped", "fp16")}


@pytest.mark.parametrize(
    ("code", "log", "output", "status", "text"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", "", "passed", "0 errors"),
        (86, "========= ERROR SUMMARY: 3 errors", "", "failed", "3 errors"),
        (86, "========= RACECHECK SUMMARY: 1 hazard displayed", "", "failed", "1 hazard displayed"),
        (1, "========= ERROR SUMMARY: 0 errors", "FAILED: 1 failed", "failed", "memcheck ended with 1: 0 errors"),
        (255, "", "Error: device not supported\n", "skipped", "memcheck ended with 255: Error: device not supported"),
    ],
)
def test_a_sanitizer_is_judged_by_its_exit_code_and_summary(
    code: int, log: str, output: str, status: str, text: str
) -> None:
    assert judge("memcheck", code, log, output) == (status, text)


def test_a_large_table_fits_into_12000_characters() -> None:
    findings = [
        timed(f"kernel_{k} a_variant", b, 123.4, p) for k in range(5) for b in (1, 8, 64, 512, 4096) for p in "ab"
    ]
    for part in ("first one", "correctness fp16", "correctness bf16", "correctness fp8", "backend", "microbenchmarks"):
        for number in range(60):
            status: Any = ("passed", "failed", "skipped", "noted")[number % 4]
            kernel = f"kernel_{number % 5}"
            findings.append(Finding(part, f"t.py::test[{number}]", status, "words " * 60, kernel, "fp16"))
    lines = list(lay_out(ABOUT, findings))
    assert len("\n".join(lines)) < 12_000
    assert max(map(len, lines)) <= 300
    assert lines[-1].startswith("FAILED: 90 passed, 90 failed")
    assert verdict([]) == "nothing was checked: "


def test_the_table_marks_unproved_kernels_and_judges_the_targets() -> None:
    findings = [timed("stepped", 4096, 164.0), timed("stepped", 1, 5.0), timed("other", 1, 6.0)]
    findings += [peer("graph", 1, 200_000.0), peer("graph", 4096, 1e6), peer("loop", 1, 4000.0)]
    findings.append(Finding("correctness fp16", "t::a", "passed", "", "stepped", "fp16"))
    table = "\n".join(lay_out(ABOUT, findings))
    row = next(line for line in table.splitlines() if " other " in line)
    assert row.endswith("unproved")
    assert "unproved" not in next(line for line in table.splitlines() if line.startswith("     1 stepped"))
    words = [line.split()[-2:] for line in table.splitlines()[-6:-2]]
    assert [one[0] for one in words] == ["200,000", "24,975,610", "1.00", "50.00"]
    assert [one[1] for one in words] == ["met", "missed", "met", "missed"]


def test_choices_are_rows_that_the_runtime_reads(tmp_path: Path) -> None:
    one, other = KERNELS[:2]
    findings = [timed(one, 64, 9.0), timed(other, 64, 8.0), timed(other, 1, 5.0), timed(f"{one} variant", 1, 1.0)]
    assert choices(findings) == []  # the GPU is not known yet
    findings.append(Finding("load", "GPU", "noted", numbers={"sm": 90}))
    write_results(tmp_path, tmp_path, ABOUT, findings)
    rows = read_rows(tmp_path / results.CHOICES)
    assert [(row.batch, row.kernel, row.groups) for row in rows] == [
        ((1, 1), other, 12),
        ((64, 64), other, 12),
        ((2, 63), other, None),
    ]
    assert all(row.applies(90, "fp16", row.batch[0]) for row in rows)
    findings.append(Finding("correctness fp16", "t::a", "failed", "", other, "fp16"))
    assert [(row.batch, row.kernel) for row in choices(findings)] == [((64, 64), one), ((1, 63), one)]


def test_the_archive_leaves_out_files_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_BYTES", 20_000)
    work = tmp_path / "work"
    work.mkdir()
    (work / "small.log").write_text("words")
    (work / "large.ncu-rep").write_bytes(bytes(range(256)) * 100)
    write_results(tmp_path, work, ABOUT, [timed("stepped", 64, 9.0)])
    with tarfile.open(tmp_path / results.LOGS) as archive:
        assert archive.getnames() == ["logs/small.log", "logs/LEFT_OUT.txt"]
        listed = archive.extractfile("logs/LEFT_OUT.txt")
        assert listed is not None
        assert "large.ncu-rep: 25600 bytes" in listed.read().decode()
    assert len(json.loads((tmp_path / results.RESULTS).read_text())["findings"]) == 1


def test_stage_cycles_are_differences_between_traced_places() -> None:
    clocks = np.zeros((64, 256, 16), np.int64)
    for step in range(64):  # one layer, one hidden layer: places 0, 1, 3, 5 and 6, on two blocks
        clocks[step, :2, [0, 1, 3, 5, 6]] = 1000 * (step + 1) + np.array([[0], [100], [250], [450], [700]])
    expected = {"layer 0": 100, "fully connected 0": 150, "output": 200, "draw": 250, "step": 1000}
    assert stage_cycles("resident", clocks) == expected
    assert stage_cycles("resident", np.zeros_like(clocks)) == {}
    launches = np.zeros_like(clocks)
    launches[:, 0, [0, 1]], launches[:, 1, [10, 11]] = (500, 900), (90, 100)  # clocks of two multiprocessors
    assert stage_cycles("stepped", launches) == {"layer 0": 400, "draw": 10}


def test_lines_of_the_microbenchmarks_become_findings(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text('{"name": "barrier", "us": 1.5}\n{"name": "wgmma", "skipped": "not sm_90a"}\n{"name": "cut')
    findings = FindingsFile(tmp_path / "findings.jsonl", "microbenchmarks")
    stages.read_microbenchmarks(findings, report)
    assert [(one.name, one.status, one.text) for one in findings.read()] == [
        ("barrier", "noted", "us 1.5"),
        ("wgmma", "skipped", "not sm_90a"),
    ]


class FakeCompiler:
    """Returns the arguments as bytes."""

    kind = "fake"

    def __init__(self, version: str) -> None:
        self.version = version

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        return Compiled(f"{source.name} {defines} {target} {self.version}".encode(), "")


def test_prebuilt_cubins_are_used_with_any_local_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cubins, "find_tool", lambda name: None)
    monkeypatch.setattr(cubins, "find_compiler", lambda: FakeCompiler("13.0"))
    notes = cubins.prebuild(tmp_path / "cubins", (90,))
    assert notes == ["microbenchmarks for sm_90: nvcc is not on PATH"]
    monkeypatch.setattr(cubins, "find_compiler", lambda: FakeCompiler("12.8"))
    cache, origin = cubins.open_cubins(tmp_path / "cubins", tmp_path / "own")
    assert origin == "prebuilt by fake 13.0"
    assert cache.get("stepped", "fp16", 90).cubin.endswith(b" 90 13.0")
    for variant in cubins.VARIANTS.values():
        other, _ = cubins.open_cubins(tmp_path / "cubins", tmp_path / "own", variant.switches)
        assert f"'{variant.switches[0]}'".encode() in other.get(variant.file, "fp16", 90).cubin
    with pytest.raises(KernelError, match=r"has no cubin of stepped.cu for sm_80 .*--prebuild FOLDER --targets 80"):
        cache.get("stepped", "fp16", 80)


def test_cubins_of_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "compiler.json").write_text('{"kind": "fake", "version": "13.0", "sources": "others"}')
    with pytest.raises(KernelError, match=f"the cubins in {tmp_path} are of other sources"):
        cubins.open_cubins(tmp_path, tmp_path / "own")
    with pytest.raises(KernelError, match="is no folder of 'run --prebuild'"):
        cubins.open_cubins(tmp_path / "nowhere", tmp_path / "own")
    assert cubins.why_unusable(None) == "no prebuilt cubins were given"
