"""The first run on a GPU: child processes that crash or hang, stages, missing tools, the command line.

tests/gpu runs the kernels; here small programs and a file of tests replace them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest
from kernel_processes import with_source_tree

from wavernn_trt.plugins.choices import KERNELS
from wavernn_trt.scripts.gpu import results, stages
from wavernn_trt.scripts.gpu.findings import crashed_kernels
from wavernn_trt.scripts.gpu.run import execute, main
from wavernn_trt.scripts.gpu.session import ROOT, Part, Run
from wavernn_trt.scripts.gpu.stages import STAGES

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


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of tests that pass, fail, hang, or end their process."""
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
    """Statuses of a test by kernel."""
    found: dict[str, list[str]] = {}
    for one in run.found():
        if f"::{test}[" in one.name:
            found.setdefault(one.kernel, []).append(one.status)
    return found


@pytest.mark.slow
def test_a_test_that_ends_its_process_is_reported_and_the_others_run(fake_run: Run) -> None:
    assert status_of(fake_run, "test_first") == {
        **{kernel: ["passed"] for kernel in ("good", "other", "another")},
        **{kernel: ["failed"] for kernel in ("killed", "leaving", "hanging", "wrong")},
    }
    texts = {one.kernel: one.text for one in fake_run.found() if "::test_first[" in one.name}
    assert texts["killed"].startswith("ended its process")
    assert texts["wrong"].startswith("AssertionError: 4 of 9 values have other bits")
    assert crashed_kernels(fake_run.found()) == {"killed", "leaving", "hanging"}
    assert next(one for one in fake_run.found() if one.status == "passed").numbers["excess"] == 0.25


@pytest.mark.slow
def test_a_kernel_that_ended_its_process_is_not_launched_again(fake_run: Run) -> None:
    assert status_of(fake_run, "test_second") == {
        **{kernel: ["passed"] for kernel in ("good", "other", "another")},
        **{kernel: ["skipped"] for kernel in ("killed", "leaving", "hanging")},
        "wrong": ["passed"],  # a failure is no crash: further sizes are informative
    }
    assert status_of(fake_run, "test_large")["wrong"] == ["skipped"]
    assert status_of(fake_run, "test_large")["good"] == ["passed"]


@pytest.mark.slow
def test_the_archived_log_has_the_traceback_of_a_test_that_hung(fake_run: Run) -> None:
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
def test_a_process_that_ends_is_a_failure_with_its_last_output(run: Run, code: str, words: str) -> None:
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
    assert {one.status for one in run.found()} == {"skipped"}  # a time limit is no failure of the kernel
    assert crashed_kernels(run.found()) == set()


def test_a_part_without_time_left_is_not_started(run: Run) -> None:
    run.execute(program("raise SystemExit(1)"), run.elapsed + 1)
    assert [(one.status, one.text) for one in run.found()] == [("skipped", "the time is up")]


def test_later_stages_run_after_one_that_fails(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
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


def test_missing_tools_are_reported_as_skipped(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.skipif(find_library("cuda") is not None, reason="this machine has an NVIDIA driver")
def test_without_a_gpu_the_error_names_the_prebuild_option(tmp_path: Path, capsys: Any) -> None:
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


def test_the_command_needs_only_the_packages_that_its_readme_lists() -> None:
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
