"""Our calls of CUDA's driver are those that it has, in the right order, with what they need.

They run through cuda-bindings and a driver that pretends (pretended/context.h says how), each in a process that finds
that driver in the place of a real one. It knows names, signatures, arguments, order and lifetimes, and it refuses what
CUDA refuses; whether anything runs on a GPU, test_on_gpu.py says where there is one.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wavernn_trt.plugins.compile import WEIGHTS
from wavernn_trt.plugins.forms import KERNELS

pytest.importorskip("cuda.bindings.driver", reason="the driver is called through cuda-bindings")
pytest.importorskip("filelock", reason="kernels are compiled into a cache that it locks")

HERE = Path(__file__).parent


def test_what_runs_on_a_gpu_runs_with_it(pretended_gpu: dict[str, str]) -> None:
    """But for blocks too many to be threads here; of the chunks a part, since they take longest."""
    chosen = "not 896 and not 1030 and (not chunk or fp16 and captured and (mixture or labels))"
    expect_all_passed(
        pretended_gpu, HERE / "test_on_gpu.py", HERE.parent / "test_operations.py", "-m", "gpu", "-k", chosen
    )


def test_calls_keep_to_the_rules_and_wrong_ones_are_refused(pretended_gpu: dict[str, str]) -> None:
    expect_all_passed(pretended_gpu, HERE / "pretended" / "cases.py")


def test_models_are_decoded_with_it(pretended_gpu: dict[str, str], tmp_path: Path) -> None:
    for module in ("torch", "onnx_graphsurgeon", "onnxruntime", "platformdirs"):
        pytest.importorskip(module, reason="a model is opened as users do, and compared with PyTorch's")
    user_cache = {"XDG_CACHE_HOME": str(tmp_path)}
    expect_all_passed({**pretended_gpu, **user_cache}, HERE / "pretended" / "executor_cases.py")


def test_the_cuda_backend_speaks_with_it(pretended_gpu: dict[str, str]) -> None:
    for module in ("onnx_graphsurgeon", "onnxruntime"):
        pytest.importorskip(module, reason="a model is opened, and compared with ONNX Runtime's")
    expect_all_passed(pretended_gpu, HERE.parents[1] / "runtime" / "test_cuda_executor.py", "-m", "gpu")


def test_pycuda_is_called_as_it_wants_and_gives_all_back(pretended_gpu: dict[str, str]) -> None:
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("needs pycuda, which is compiled with nvcc when it is installed")
    preloaded = {"LD_PRELOAD": "libcuda.so.1"}  # for a pycuda that was linked where there was no driver
    expect_all_passed({**pretended_gpu, **preloaded}, HERE / "pretended" / "pycuda_cases.py")


def test_the_gpu_command_describes_the_device(pretended_gpu: dict[str, str], host_build: Path, tmp_path: Path) -> None:
    shutil.copytree(host_build.parent, tmp_path / "host")  # else it would build the same again
    run(pretended_gpu, "-m", "wavernn_trt.scripts.gpu", "--only", "environment", "--out", tmp_path)
    findings = json.loads((tmp_path / "gpu.json").read_text())["findings"]
    text = "Pretended GPU, sm_90, 2 multiprocessors, 1.0 GiB, 227 KiB shared a block, driver of CUDA 13.0"
    assert text in [one["text"] for one in findings]
    assert [one["status"] for one in findings if one["line"] == "resources"] == ["passed"] * sum(
        map(len, WEIGHTS.values())
    )


def test_the_gpu_command_finds_the_kernels_right(pretended_gpu: dict[str, str], tmp_path: Path) -> None:
    run(pretended_gpu, "-m", "wavernn_trt.scripts.gpu", "--subset", "sanitizer", "--out", tmp_path)
    findings = json.loads((tmp_path / "gpu_subset.json").read_text())["findings"]
    assert {one["subject"].split()[0] for one in findings} == {"gru_cell", *KERNELS}
    assert {one["status"] for one in findings} == {"passed"}


def test_the_gpu_command_times_kernels_and_speaks(pretended_gpu: dict[str, str]) -> None:
    expect_all_passed(pretended_gpu, HERE / "pretended" / "command_cases.py")


def expect_all_passed(environment: dict[str, str], *arguments: str | Path) -> None:
    """Runs tests in a process of their own, where none may fail or be skipped."""
    out = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    assert re.fullmatch(r"\d+ passed(, \d+ deselected)? in .*", out.splitlines()[-1]), out


def run(environment: dict[str, str], *arguments: str | Path) -> str:
    """What Python prints in a process of its own, which has to end well."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout
