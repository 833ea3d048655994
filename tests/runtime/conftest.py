"""Helpers of this folder's tests, loaded by path: pytest's importlib mode puts no test folder on the import path."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import simulated_device as simulated
from small_voice import SMALL_VOICE

from wavernn_trt.engines.cache import EngineCache
from wavernn_trt.engines.gpu import DriverState, Gpu
from wavernn_trt.engines.plan_names import plugin_sources
from wavernn_trt.engines.spec import ROLES
from wavernn_trt.export.model_directory import MANIFEST, ModelDirectory, file_sha256, open_model_directory
from wavernn_trt.runtime.executors import device, plan_choice, tensorrt_executor
from wavernn_trt.runtime.executors.tensorrt_executor import Engine
from wavernn_trt.runtime.vocoder import Vocoder

HERE = Path(__file__).resolve().parent
GPU = Gpu("NVIDIA Pretended 4000", 89)
RTX = "1.7.1.116"


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their annotations there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 of one GPU; FAKE_GPUS changes the number, FAKE_ERROR makes it fail."""
    return _load("fake_driver", HERE.parent / "fake_driver.py").build(tmp_path_factory.mktemp("driver"))


small_directory = _load("engine_fixtures", HERE.parent / "engines" / "conftest.py").small_directory


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """tests/export/reference.py."""
    pytest.importorskip("torch", reason="the families are PyTorch modules")
    return _load("export_reference", HERE.parent / "export" / "reference.py")


@pytest.fixture(scope="session")
def small_checkpoint(reference: ModuleType) -> Callable[[str], Any]:
    """A function layout -> its small checkpoint, as `small_directory` exports it."""
    make: Callable[[str], Any] = reference.small_checkpoint
    return make


@pytest.fixture(scope="session")
def voice() -> ModelDirectory:
    return open_model_directory(SMALL_VOICE)


@pytest.fixture
def voice_copy(tmp_path: Path) -> Path:
    """A copy of the small voice, to change."""
    return Path(shutil.copytree(SMALL_VOICE, tmp_path / "voice"))


@pytest.fixture(scope="session")
def plain() -> Iterator[Vocoder]:
    """The small voice with one slot on one thread."""
    with Vocoder.load(SMALL_VOICE, "onnxruntime", batch=1, threads=1) as vocoder:
        yield vocoder


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "wavernn-trt" / "engines")


@pytest.fixture
def rtx_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX appears installed, in the version of the stored plans."""
    monkeypatch.setattr(plan_choice, "tensorrt_version", lambda backend: RTX if backend == "tensorrt_rtx" else "10.16")


@pytest.fixture
def store(voice: ModelDirectory, cache: EngineCache) -> Callable[..., None]:
    """A function that stores an engine's plans with meaningless content; later ones have a later time of use."""
    stored = 0

    def put(roles: tuple[str, ...] = ROLES, **settings: Any) -> None:
        nonlocal stored
        changes = {
            "model_sha256": file_sha256(voice.file(MANIFEST)),
            "kernels_sha256": plugin_sources(),
            "backend_version": RTX,
        }
        for role, record in simulated.records(voice, **{**changes, **settings}).items():
            if role not in roles:
                continue
            stored += 1
            content = f"{role} {stored}".encode()
            key = hashlib.sha256(content).hexdigest()
            with cache.building(role, key) as building:
                file = building.folder / "plan"
                file.write_bytes(content)
                plan = building.commit(
                    file, dataclasses.replace(record, key=key, plan_sha256=key, plan_bytes=len(content))
                )
            os.utime(plan.plan.with_suffix(".json"), (stored, stored))

    return put


@pytest.fixture
def simulated_machine(voice: ModelDirectory, rtx_installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and all packages; plans are the voice's graphs."""

    def load(backend: str, chosen: Any, rebuild: str) -> Engine:
        plans = [simulated.OnnxPlan(voice, plan.record) for plan in (chosen.conditioner, chosen.decoder)]
        return Engine(simulated.SimulatedDevice(0), *plans)

    monkeypatch.setattr(tensorrt_executor, "driver_state", lambda: DriverState((GPU,), None))
    monkeypatch.setattr(tensorrt_executor, "load_engine", load)
    monkeypatch.setattr(device, "_installed", lambda module: module != "tensorrt")
