"""The first run on a GPU: child processes that end or hang, its files, its table, its models and peers.

The kernels themselves are run by tests/gpu; here fake tests and small programs stand for them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_cases import small_shapes
from kernel_processes import with_source_tree

from wavernn_trt.plugins.choices import KERNELS, read_rows
from wavernn_trt.plugins.compilers import Compiled
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.scripts.gpu import cubins, results, stages
from wavernn_trt.scripts.gpu.cases import (
    STANDARD,
    StandardModel,
    fatchord_shape,
    long_chunk,
    multiply_adds,
    univoc_shape,
)
from wavernn_trt.scripts.gpu.findings import Finding, FindingsFile, crashed_kernels, failed_kernels, proved_kernels
from wavernn_trt.scripts.gpu.results import choices, write_results
from wavernn_trt.scripts.gpu.run import execute, main
from wavernn_trt.scripts.gpu.session import ROOT, Part, Run
from wavernn_trt.scripts.gpu.stages import STAGES, judge
from wavernn_trt.scripts.gpu.table import lay_out, verdict
from wavernn_trt.scripts.gpu.trace import stage_cycles

ABOUT = {"date": "2000-01-01", "seconds": 300.0}
FAKE_TESTS = """
import os, signal, time
import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("precision", ["fp16"])]
KERNELS = pytest.mark.parametrize("kernel", ["wrong", "good", "killed", "other", "hanging", "another", "leaving"])

@KERNELS
def test_first(kernel, precision, record_property):
    record_property("excess", 0.25)
    if kernel == "killed":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kernel == "leaving":
        os._exit(0)
    if kernel == "hanging":
        time.sleep(600)
    assert kernel != "wrong", "4 of 9 values have other bits"

@KERNELS
def test_second(kernel, precision):
    pass

@pytest.mark.large
@KERNELS
def test_large(kernel, precision):
    pass
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """With folders, and nothing found yet."""
    made = Run(tmp_path / "out", tmp_path / "work", 120.0, None, KERNELS)
    made.out.mkdir()
    made.work.mkdir()
    return made


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose tests end their process in several ways, and do not."""
    pytest.importorskip("xdist", reason="pytest-xdist starts another process where one ended")
    folder = tmp_path_factory.mktemp("fake")
    made = Run(folder / "out", folder / "work", 120.0, None, KERNELS)
    for path in (made.out, made.work, folder / "tests"):
        path.mkdir()
    shutil.copy(ROOT / "tests" / "gpu" / "conftest.py", folder / "tests")
    (folder / "tests" / "test_fake.py").write_text(FAKE_TESTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", with_source_tree(os.environ)["PYTHONPATH"])
        made.execute(made.tests("fake", "--gpu-test-seconds", "2", str(folder / "tests")), 100.0)
    made.write()
    return made


def status_of(run: Run, test: str) -> dict[str, list[str]]:
    """Statuses by kernel."""
    found: dict[str, list[str]] = {}
    for one in run.found():
        if f"::{test}[" in one.name:
            found.setdefault(one.kernel, []).append(one.status)
    return found


def test_a_test_that_ends_its_process_is_reported_and_the_rest_runs(fake_run: Run) -> None:
    assert status_of(fake_run, "test_first") == {
        **{kernel: ["passed"] for kernel in ("good", "other", "another")},
        **{kernel: ["failed"] for kernel in ("killed", "leaving", "hanging", "wrong")},
    }
    texts = {one.kernel: one.text for one in fake_run.found() if "::test_first[" in one.name}
    assert texts["killed"].startswith("ended its process")
    assert texts["wrong"].startswith("AssertionError: 4 of 9 values have other bits")
    assert crashed_kernels(fake_run.found()) == {"killed", "leaving", "hanging"}
    assert next(one for one in fake_run.found() if one.status == "passed").numbers["excess"] == 0.25


def test_a_kernel_that_ended_its_process_is_not_launched_again(fake_run: Run) -> None:
    assert status_of(fake_run, "test_second") == {
        **{kernel: ["passed"] for kernel in ("good", "other", "another")},
        **{kernel: ["skipped"] for kernel in ("killed", "leaving", "hanging")},
        "wrong": ["passed"],  # which sizes are wrong is worth knowing
    }
    assert status_of(fake_run, "test_large")["wrong"] == ["skipped"]
    assert status_of(fake_run, "test_large")["good"] == ["passed"]


def test_where_a_test_hung_is_in_the_archive_of_logs(fake_run: Run) -> None:
    with tarfile.open(fake_run.out / results.LOGS) as archive:
        log = archive.extractfile("logs/fake.log")
        assert log is not None
        assert "in test_first" in log.read().decode()


def program(code: str, name: str = "child", **fields: Any) -> Part:
    return Part(name, [sys.executable, "-c", f"import os, signal, sys, time\n{code}"], **fields)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended its process with SIGSEGV: it printed nothing"),
        ("sys.exit('no such library')", "ended its process with exit code 1: no such library"),
    ],
)
def test_a_process_that_ends_is_a_failure_with_its_last_words(run: Run, code: str, words: str) -> None:
    run.findings("child").begin("a kernel", "stepped", "fp16")
    run.execute(program(code), 60.0)
    run.execute(program("print('fine')", "next"), 60.0)
    (found,) = run.found()
    assert (found.status, found.text, found.kernel) == ("failed", words, "stepped")
    assert crashed_kernels([found]) == {"stepped"}


def test_a_process_with_children_is_ended_at_its_limit(run: Run) -> None:
    started = time.monotonic()
    code = "import subprocess; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    run.findings("child").begin("a kernel", "stepped", "fp16")
    code_found, _ = run.execute(program(code, seconds=3.5), 60.0)
    assert code_found is None
    assert time.monotonic() - started < 20
    assert {one.status for one in run.found()} == {"skipped"}  # that the time was up is no failure of the kernel's
    assert crashed_kernels(run.found()) == set()


def test_a_part_without_time_is_not_begun(run: Run) -> None:
    run.execute(program("raise SystemExit(1)"), run.elapsed + 1)
    assert [(one.status, one.text) for one in run.found()] == [("skipped", "the time is up")]


def test_stages_go_on_behind_one_that_fails(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    written: list[int] = []

    def parts(run: Run, stage: str, until: float) -> Any:
        assert until == pytest.approx(STAGES[stage] / 450.0 * 120.0, abs=2.0)
        yield program("os._exit(3)" if stage == "first" else "", stage)
        written.append(len(json.loads((run.out / results.RESULTS).read_text())["findings"]))

    monkeypatch.setattr("wavernn_trt.scripts.gpu.run.parts_of", parts)
    monkeypatch.setattr("wavernn_trt.scripts.gpu.run.why_unusable", lambda folder: None)
    assert execute(run, ["first", "load", "micro"]) == 1
    assert written == [0, 1, 1]  # rewritten after every part
    assert "FAILED: 1 failed" in capsys.readouterr().out
    names = sorted(path.name for path in run.out.iterdir())
    assert names == [results.CHOICES, results.LOGS, results.RESULTS]


def test_missing_tools_are_lines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "find_tool", lambda name: None)
    monkeypatch.setattr(stages.importlib.util, "find_spec", lambda name: None)
    for stage in ("first", "profile", "correctness"):
        assert list(stages.parts_of(run, stage, 60.0)) == []
    assert [part.name for part in stages.parts_of(run, "backend", 60.0)] == ["cells"]
    stages._sanitizers(run, Path(), 60.0, ("memcheck",))
    texts = [one.text for one in run.found()]
    assert {one.status for one in run.found()} == {"skipped"}
    for words in (
        "pytest is not installed",
        "ncu is not on PATH",
        "compute-sanitizer is not",
        "torch is not installed",
    ):
        assert any(words in text for text in texts), words


def test_only_kernels_whose_first_launches_passed_are_timed(run: Run) -> None:
    kernels = [kernel for kernel in KERNELS if kernel in stages.kernels_with("fp16")]
    run.findings("first").add("test", "failed", "wrong", kernel=kernels[0], precision="fp16")
    run.findings("first").add("test", "passed", kernel=kernels[1], precision="fp16")
    parts = [part.name for part in stages.parts_of(run, "speed", 60.0)]
    assert f"speed {kernels[0]}" not in parts
    assert f"speed {kernels[1]}" in parts
    assert run.found()[-1].text == "the kernel failed before"


def test_sanitizers_look_at_the_fastest_kernels_and_at_those_that_crashed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_findings_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    file = FindingsFile(tmp_path / "findings.jsonl", "part")
    file.begin("one", "stepped", "fp16")
    file.add("one", "passed")
    with file.path.open("a") as stream:
        stream.write('{"part": "part", "na')
    assert [(one.name, one.kernel, one.status) for one in file.read()] == [("one", "stepped", "passed")]


def test_a_kernel_is_proved_by_correctness_alone() -> None:
    first = Finding("first stepped", "a", "passed", kernel="stepped", precision="fp16")
    right = dataclasses.replace(first, part="correctness fp16")
    wrong = dataclasses.replace(right, status="failed")
    assert proved_kernels([first], "correctness") == set()
    assert proved_kernels([first, right], "correctness") == {("stepped", "fp16")}
    assert proved_kernels([right, wrong], "correctness") == set()
    assert failed_kernels([right, wrong]) == {("stepped", "fp16")}


def timed(kernel: str, batch: int, step_us: float, precision: str = "fp16") -> Finding:
    model = next(iter(STANDARD))
    speed = batch / step_us * 1e6
    numbers = {"kind": "kernel", "model": model, "batch": batch, "groups": 12, "steps": 1024, "step_us": step_us}
    numbers |= {"samples_per_second": speed, "flops": 1.08e14, "repeats": [step_us, 1.04 * step_us]}
    return Finding("speed", f"{kernel} {batch}", "noted", "", kernel, precision, numbers=numbers)


def peer(kind: str, batch: int, speed: float) -> Finding:
    numbers = {"kind": kind, "model": next(iter(STANDARD)), "batch": batch, "samples_per_second": speed}
    return Finding("peers", f"{kind} {batch}", "noted", numbers=numbers)


def test_the_whole_table_fits_into_what_is_kept_of_an_output() -> None:
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


def test_speeds_stand_beside_what_proves_them_and_targets() -> None:
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


def test_choices_replace_the_runtimes_table(tmp_path: Path) -> None:
    one, other = KERNELS[:2]
    findings = [timed(one, 64, 9.0), timed(other, 64, 8.0), timed(other, 1, 5.0), timed(f"{one} variant", 1, 1.0)]
    assert choices(findings) == []  # of which GPU is not known
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


def test_the_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_cycles_of_a_trace_are_those_between_the_places_that_were_reached() -> None:
    clocks = np.zeros((64, 256, 16), np.int64)
    for step in range(64):  # one layer, one hidden layer: places 0, 1, 3, 5 and 6, on two blocks
        clocks[step, :2, [0, 1, 3, 5, 6]] = 1000 * (step + 1) + np.array([[0], [100], [250], [450], [700]])
    expected = {"layer 0": 100, "fully connected 0": 150, "output": 200, "draw": 250, "step": 1000}
    assert stage_cycles("resident", clocks) == expected
    assert stage_cycles("resident", np.zeros_like(clocks)) == {}
    launches = np.zeros_like(clocks)
    launches[:, 0, [0, 1]], launches[:, 1, [10, 11]] = (500, 900), (90, 100)  # clocks of two multiprocessors
    assert stage_cycles("stepped", launches) == {"layer 0": 400, "draw": 10}


def test_what_the_microbenchmarks_print_are_findings(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text('{"name": "barrier", "us": 1.5}\n{"name": "wgmma", "skipped": "not sm_90a"}\n{"name": "cut')
    findings = FindingsFile(tmp_path / "findings.jsonl", "microbenchmarks")
    stages.read_microbenchmarks(findings, report)
    assert [(one.name, one.status, one.text) for one in findings.read()] == [
        ("barrier", "noted", "us 1.5"),
        ("wgmma", "skipped", "not sm_90a"),
    ]


class Compilers:
    """Gives bytes that name what was asked for."""

    kind = "fake"

    def __init__(self, version: str) -> None:
        self.version = version

    def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
        return Compiled(f"{source.name} {defines} {target} {self.version}".encode(), "")


def test_prebuilt_cubins_are_taken_whatever_the_local_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cubins, "find_tool", lambda name: None)
    monkeypatch.setattr(cubins, "find_compiler", lambda: Compilers("13.0"))
    notes = cubins.prebuild(tmp_path / "cubins", (90,))
    assert notes == ["microbenchmarks for sm_90: nvcc is not on PATH"]
    monkeypatch.setattr(cubins, "find_compiler", lambda: Compilers("12.8"))
    cache, origin = cubins.open_cubins(tmp_path / "cubins", tmp_path / "own")
    assert origin == "prebuilt by fake 13.0"
    assert cache.get("stepped", "fp16", 90).cubin.endswith(b" 90 13.0")
    for variant in cubins.VARIANTS.values():
        other, _ = cubins.open_cubins(tmp_path / "cubins", tmp_path / "own", variant.switches)
        assert f"'{variant.switches[0]}'".encode() in other.get(variant.file, "fp16", 90).cubin
    with pytest.raises(KernelError, match=r"has no cubin of stepped.cu for sm_80 .*--prebuild FOLDER --targets 80"):
        cache.get("stepped", "fp16", 80)


def test_cubins_of_other_sources_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "compiler.json").write_text('{"kind": "fake", "version": "13.0", "sources": "others"}')
    with pytest.raises(KernelError, match=f"the cubins in {tmp_path} are of other sources"):
        cubins.open_cubins(tmp_path, tmp_path / "own")
    with pytest.raises(KernelError, match="is no folder of 'run --prebuild'"):
        cubins.open_cubins(tmp_path / "nowhere", tmp_path / "own")
    assert cubins.why_unusable(None) == "no prebuilt cubins were given"


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
def test_what_the_end_of_a_sanitizer_means(code: int, log: str, output: str, status: str, text: str) -> None:
    assert judge("memcheck", code, log, output) == (status, text)


@pytest.mark.skipif(find_library("cuda") is not None, reason="this machine has an NVIDIA driver")
def test_without_a_gpu_the_way_out_is_named(tmp_path: Path, capsys: Any) -> None:
    assert main(["--out", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert "there is no GPU to run on: libcuda.so.1 was not found" in error
    assert "'--prebuild FOLDER' compiles the kernels" in error
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--out is missing"),
        (("--only", "abacus"), "expected some of load,first,micro"),
        (("--seconds", "0"), "expected a positive number"),
        (("--kernels", "abacus"), "found 'abacus', expected some of"),
        (("--prebuild", "/proc/none"), "/proc/none"),
        (("--out", ""), "is a shell variable not set?"),
    ],
)
def test_wrong_usage_exits_2(arguments: tuple[str, ...], words: str, capsys: Any) -> None:
    try:
        code: Any = main(arguments)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert words in capsys.readouterr().err


def test_the_command_needs_no_packages_beside_those_in_its_readme() -> None:
    readme = (ROOT / "scripts/gpu/README.md").read_text()
    needed = next(line for line in readme.splitlines() if line.startswith("| Python 3.10"))
    for package in ("numpy", "ml-dtypes", "msgspec", "cuda-bindings", "psutil", "nvidia-ml-py", "onnxruntime"):
        assert f"`{package}`" in needed
    others = ("filelock", "tqdm", "soundfile", "soxr", "torch", "onnx", "onnx_graphsurgeon", "platformdirs", "pytest")
    others += ("hypothesis", "tabulate", "threadpoolctl", "matplotlib", "polygraphy", "safetensors", "yaml")
    code = f"import sys; sys.modules.update(dict.fromkeys({others}))"
    code += "; import wavernn_trt.scripts.gpu.run, wavernn_trt.scripts.gpu.speed"
    clone = {**os.environ, "PYTHONPATH": str(ROOT / ".typing")}
    subprocess.run([sys.executable, "-c", code], check=True, env=clone)


def small_model(name: str) -> StandardModel:
    """Of the same kind."""
    small = {"univoc-896": univoc_shape(16, 24, 64), "fatchord-512": fatchord_shape(12, 16, 32)}
    mixture = dataclasses.replace(small["fatchord-512"], outputs=30, output="logistic_mixture")
    return dataclasses.replace(STANDARD[name], shape={**small, "fatchord-mol-512": mixture}[name])


@pytest.mark.parametrize("name", STANDARD)
def test_standard_models_are_those_that_export_makes(name: str) -> None:
    pytest.importorskip("torch", reason="models are PyTorch's")
    pytest.importorskip("onnx_graphsurgeon", reason="the step is exported as an ONNX graph")
    from wavernn_trt.export.rewrite.fold_embedding import fold_embedding
    from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
    from wavernn_trt.export.rewrite.fuse_sequence import fuse_sequence
    from wavernn_trt.export.rewrite.hoist_conditioning import hoist_conditioning
    from wavernn_trt.export.step_graph import export_networks
    from wavernn_trt.scripts.gpu.peers import random_model

    small = small_model(name).shape
    if small.output != "categorical":
        with pytest.raises(ValueError, match="expected univoc's or fatchord's categorical decoder"):
            random_model(small)
        return
    model = random_model(small)
    fused = fuse_gates(hoist_conditioning(fold_embedding(export_networks(model, 80))), model.config.input_sizes)
    config = dataclasses.replace(model.config, groups=fused.groups)
    assert fuse_sequence(fused, config).shape == small
    assert model.config.margin == STANDARD[name].margin
    assert multiply_adds(small) == model.config.multiply_adds


def test_a_long_chunk_reads_rows_that_are_there() -> None:
    for model in STANDARD.values():
        small = fatchord_shape(3, 4, 5) if model.shape.skip else univoc_shape(3, 4, 5)
        case, inputs = long_chunk(dataclasses.replace(model, shape=small), "fp32", 2)
        assert inputs["frame_index"].shape == (2, 1024)
        assert model.margin <= inputs["frame_index"].min()
        assert inputs["frame_index"].max() < case.window - model.margin
        if "interpolation" in inputs:
            assert inputs["interpolation"].shape == (2, 1, 1024, case.window)
            np.testing.assert_allclose(inputs["interpolation"].sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [univoc_shape(16, 24, 64), fatchord_shape(12, 16, 32)])
def test_the_peers_step_the_model_itself(shape: Any) -> None:
    torch = pytest.importorskip("torch", reason="the peers are PyTorch's")
    from wavernn_trt.scripts.bench.pytorch_peers import Steps
    from wavernn_trt.scripts.gpu.peers import loop_seconds, random_model

    model = random_model(shape)
    steps = Steps(model, 3, 8, "fp32", "cpu")
    previous, hidden = steps._previous.clone(), torch.zeros(shape.layers, 3, shape.hidden_size)
    for part in range(2):  # the second goes on where the first ended
        steps.run()
        for step in range(8):
            with torch.no_grad():
                logits, hidden = model.step(previous, hidden, steps._rows[step])
            label = torch.argmax(logits + steps.noise[step], dim=1)
            assert torch.equal(label, steps.labels[step]), (part, step)
            previous = label if shape.label_feedback else 2 * label.float() / (shape.outputs - 1) - 1
    assert len(steps.labels.unique()) > 3
    assert Steps(model, 2, 4, "bf16", "cpu").labels.shape == (4, 2)
    assert loop_seconds(model, 3, 4, "cpu") > 0


def test_peers_of_other_models_are_refused() -> None:
    pytest.importorskip("torch", reason="the peers are PyTorch's")
    from wavernn_trt.scripts.gpu.peers import random_model

    with pytest.raises(ValueError, match="expected univoc's or fatchord's"):
        random_model(small_shapes()["gaussian"])
