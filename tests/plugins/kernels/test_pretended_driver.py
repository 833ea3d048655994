"""Calls of the CUDA driver exist, and have the right order and arguments.

They run through cuda-bindings and the pretended driver (see pretended/context.h), in processes that find it in place of
a real one. It checks names, signatures, arguments, order and lifetimes, and refuses what CUDA refuses. Whether kernels
run on a GPU is tested by tests/gpu where there is one.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings.driver", reason="the driver is called through cuda-bindings")
pytest.importorskip("filelock", reason="kernels are compiled into a cache that it locks")

HERE = Path(__file__).parent


def test_the_gpu_tests_pass_on_the_pretended_driver(pretended_gpu: dict[str, str]) -> None:
    """All cells but those with too many blocks for threads of this machine, and some chunks, which take longest."""
    cells = "(cell_is_the_reference or of_a_cell) and not 896 and not 1030 and not 130"
    chunks = "(first_launches and block) or (cut and gaussian and not full) or one_step and mixture"
    tests = HERE.parents[1] / "gpu" / "test_correctness.py"
    options = ("--gpu-precisions", "fp16", "--gpu-test-seconds", "250")
    expect_all_passed(pretended_gpu, tests, "-m", "gpu", "-k", f"({cells}) or {chunks}", *options)
    expect_all_passed(pretended_gpu, HERE.parent / "test_operations.py", "-m", "gpu")


def test_correct_calls_pass_and_wrong_calls_fail(pretended_gpu: dict[str, str]) -> None:
    expect_all_passed(pretended_gpu, HERE / "pretended" / "cases.py")


def test_models_are_decoded_on_the_pretended_driver(pretended_gpu: dict[str, str], tmp_path: Path) -> None:
    for module in ("torch", "onnx_graphsurgeon", "onnxruntime", "platformdirs"):
        pytest.importorskip(module, reason="a model is opened as users do, and compared with PyTorch's")
    user_cache = {"XDG_CACHE_HOME": str(tmp_path)}
    expect_all_passed({**pretended_gpu, **user_cache}, HERE / "pretended" / "executor_cases.py")


def test_pycuda_is_called_correctly_and_all_memory_is_freed(pretended_gpu: dict[str, str]) -> None:
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("needs pycuda, which is compiled when it is installed; .ci/run has the commands")
    preloaded = {"LD_PRELOAD": "libcuda.so.1"}  # for a pycuda that was linked where there was no driver
    expect_all_passed({**pretended_gpu, **preloaded}, HERE / "pretended" / "pycuda_cases.py")


def test_the_first_run_loads_launches_and_writes(pretended_gpu: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="a kernel that ends its process is reported by pytest-xdist")
    command = ("-m", "wavernn_trt.scripts.gpu.run", "--only", "load,first", "--kernels", "stepped", "--out", tmp_path)
    out = run(pretended_gpu, *command, "--seconds", "200")
    findings = json.loads((tmp_path / "results.json").read_text())["findings"]
    text = "Pretended GPU, sm_90, 2 multiprocessors, 1.0 GiB, 227 KiB shared a block"
    assert next(one["text"] for one in findings if one["name"] == "GPU").startswith(text)
    launched = [one for one in findings if one["part"] == "first stepped"]
    assert [(one["kernel"], one["precision"], one["status"]) for one in launched] == [("stepped", "fp16", "passed")] * 4
    assert "all right: " in out.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["choices.json", "logs.tar.gz", "results.json"]


def test_the_first_run_times_kernels(pretended_gpu: dict[str, str]) -> None:
    expect_all_passed(pretended_gpu, HERE / "pretended" / "command_cases.py")


def expect_all_passed(environment: dict[str, str], *arguments: str | Path) -> None:
    """Runs tests in a process of their own, where none may fail or be skipped."""
    out = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    assert re.fullmatch(r"\d+ passed(, \d+ deselected)? in .*", out.splitlines()[-1]), out


def run(environment: dict[str, str], *arguments: str | Path) -> str:
    """Returns what Python prints in a process of its own, which has to succeed."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout
