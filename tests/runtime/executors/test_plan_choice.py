"""The choice of plans from a cache, and the messages where something is missing."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wavernn_trt
from wavernn_trt.engines.cache import EngineCache
from wavernn_trt.engines.gpu import DriverState, Gpu, driver_state
from wavernn_trt.engines.spec import Backend
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.export.quantization import Product, Quantization
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors import device
from wavernn_trt.runtime.executors.device import NoMachineError
from wavernn_trt.runtime.executors.plan_choice import (
    ChosenEngine,
    NoEngineError,
    build_command,
    choose_engine,
    require_machine,
)
from wavernn_trt.runtime.load_options import LoadOptions

pytestmark = pytest.mark.usefixtures("rtx_installed")

Store = Callable[..., None]
GPU = Gpu("NVIDIA Pretended 4000", 89)


def choose(
    voice: ModelDirectory, cache: EngineCache, backend: Backend = "tensorrt_rtx", device: Gpu = GPU, **wanted: Any
) -> ChosenEngine:
    return choose_engine(voice, backend, LoadOptions(cache=cache.folder, **wanted), device)


def test_the_engine_that_was_used_last_is_taken(voice: ModelDirectory, cache: EngineCache, store: Store) -> None:
    store(precision="fp16")
    store(precision="bf16")
    chosen = choose(voice, cache)
    assert (chosen.decoder.record.precision, chosen.conditioner.record.role) == ("bf16", "conditioner")
    assert choose(voice, cache, precision="fp16").decoder.record.precision == "fp16"
    # Its choice was its last use.
    assert choose(voice, cache).decoder.record.precision == "fp16"


def test_an_engine_for_the_requested_batch_is_taken(voice: ModelDirectory, cache: EngineCache, store: Store) -> None:
    store(batch=(1, 8, 64))
    store(batch=(4, 4, 4))
    assert choose(voice, cache, batch=4).decoder.record.batch == (4, 4, 4)
    assert choose(voice, cache, batch=5).decoder.record.batch == (1, 8, 64)
    with pytest.raises(NoEngineError, match=r"not for a batch of 65 \(batch 1:8:64, batch 4\)"):
        choose(voice, cache, batch=65)


@pytest.mark.parametrize(
    ("settings", "wanted", "words"),
    [
        ({"model_sha256": "1" * 64}, {}, "there is no plan of its conditioner"),
        ({}, {"backend": "tensorrt"}, r"not for TensorRT \(TensorRT-RTX\)"),
        ({"backend_version": "1.6.0.1"}, {}, r"not from TensorRT-RTX 1.7.1.116, which is installed \(1.6.0.1\)"),
        ({"targets": ("sm80", "sm120")}, {}, r"not for sm89 \(sm80 sm120\)"),
        ({"kernels_sha256": "1" * 64}, {}, "not with this installation's plugins"),
        ({"precision": "fp32"}, {"precision": "bf16"}, r"not in bf16 \(fp32\)"),
        ({"roles": ("conditioner",)}, {}, "there is no plan of its decoder"),
        ({"roles": ("decoder",)}, {}, "there is no plan of its conditioner"),
    ],
)
def test_the_error_says_why_no_engine_fits_and_how_to_build_one(
    voice: ModelDirectory,
    cache: EngineCache,
    store: Store,
    settings: dict[str, Any],
    wanted: dict[str, Any],
    words: str,
) -> None:
    store(**settings)
    backend: Backend = wanted.pop("backend", "tensorrt_rtx")
    with pytest.raises(NoEngineError, match=words) as raised:
        choose(voice, cache, backend, **wanted)
    options = LoadOptions(cache=cache.folder, **wanted)
    assert str(raised.value).endswith(f". Build one: {build_command(voice, backend, options, GPU)}")


def test_plans_of_regular_tensorrt_run_on_the_gpu_they_were_built_on(
    voice: ModelDirectory, cache: EngineCache, store: Store
) -> None:
    store(backend="tensorrt", backend_version="10.16", targets=("NVIDIA Pretended 4000 sm89",))
    assert choose(voice, cache, "tensorrt").decoder.record.backend == "tensorrt"
    with pytest.raises(NoEngineError, match="not for NVIDIA Other sm89"):
        choose(voice, cache, "tensorrt", Gpu("NVIDIA Other", 89))


def test_instead_of_a_damaged_plan_the_one_before_is_taken(
    voice: ModelDirectory, cache: EngineCache, store: Store
) -> None:
    store(precision="fp16")
    store(precision="bf16")
    damaged = choose(voice, cache, precision="bf16").decoder.plan
    damaged.write_bytes(damaged.read_bytes()[::-1])
    assert choose(voice, cache).decoder.record.precision == "fp16"
    assert not damaged.exists()


def test_the_command_builds_the_requested_engine(voice: ModelDirectory, tmp_path: Path) -> None:
    from wavernn_trt.scripts.cli import Parser

    build = pytest.importorskip("wavernn_trt.scripts.build")
    strange = dataclasses.replace(voice, path=tmp_path / "my voice's")
    wanted = LoadOptions(precision="bf16", batch=16, cache=tmp_path)
    words = shlex.split(build_command(strange, "tensorrt_rtx", wanted, GPU))
    parser = Parser()
    build.add_parser(parser.add_subparsers())
    read = parser.parse_args(words[1:])
    assert (read.directory, read.backend, read.sm) == (strange.path, "tensorrt-rtx", (89,))
    assert (read.precision, str(read.batch), read.cache) == ("bf16", "16", tmp_path)
    older = Gpu("NVIDIA Pretended 3000", 86)
    in_fp8 = dataclasses.replace(voice, quantization=Quantization({"fc_0": Product("fp8", 8.0)}))
    in_int8 = dataclasses.replace(voice, quantization=Quantization({"fc_0": Product("int8", 8.0)}))
    commands = [build_command(one, "tensorrt_rtx", LoadOptions(), older) for one in (voice, in_int8, in_fp8)]
    assert ["--form sequence" in command for command in commands] == [False, False, True]
    assert "--form" not in build_command(in_fp8, "tensorrt_rtx", LoadOptions(), GPU)
    hopper = build_command(voice, "tensorrt_rtx", LoadOptions(), Gpu("NVIDIA H100", 90))
    assert hopper == f"wavernn-trt build {voice.path} --backend tensorrt"


def test_a_machine_without_a_driver_names_what_is_missing_and_the_cpu_s_command(voice: ModelDirectory) -> None:
    if driver_state().devices:
        pytest.skip("this machine has a GPU")
    for backend in ("tensorrt", "tensorrt_rtx", "tensorrt-rtx", "cuda"):
        with pytest.raises(VocoderError, match=r"libcuda.so.1 was not found, so there is no NVIDIA driver") as raised:
            wavernn_trt.load(voice.path, backend)
        name = backend.replace("-", "_")
        assert str(raised.value).startswith(f"backend {name}: no GPU: ")
        assert str(raised.value).endswith(
            f"wavernn-trt vocode INPUT -o OUTPUT --model {voice.path} --backend onnxruntime"
        )


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("tensorrt_rtx", "TensorRT-RTX is not installed; install it with: pip install"),
        ("pycuda.driver", "pycuda is not installed"),
        ("cuda.bindings", "cuda-bindings is not installed"),
    ],
)
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, missing: str, words: str) -> None:
    monkeypatch.setattr(device, "_installed", lambda module: module != missing)
    state = DriverState((GPU,), None)
    with pytest.raises(NoMachineError, match=words):
        require_machine("tensorrt_rtx", state)
    monkeypatch.setattr(device, "_installed", lambda module: True)
    assert require_machine("tensorrt_rtx", state) == GPU


def test_packages_are_looked_for_without_importing_them() -> None:
    assert device._installed("numpy.linalg")
    assert not device._installed("no_such_package.driver")


def test_on_a_gpu_the_missing_package_is_named(fake_driver: Path, voice: ModelDirectory, tmp_path: Path) -> None:
    if importlib.util.find_spec("pycuda") is not None and importlib.util.find_spec("tensorrt_rtx") is not None:
        pytest.skip("this machine has every package")
    vocode = [sys.executable, "-m", "wavernn_trt.scripts.cli", "vocode", "runtime/voices/sample_mel.npy"]
    done = subprocess.run(
        [*vocode, "-o", tmp_path / "a.wav", "--backend", "tensorrt-rtx"],
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_driver)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is not installed; install it with:" in done.stderr
    assert "Traceback" not in done.stderr
