"""GPUs that the driver reports: of this machine, and of a library with the driver's interface."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wavernn_trt.engines.gpu import DRIVER, DriverState, Gpu, driver_state

spec = importlib.util.spec_from_file_location("fake_driver", Path(__file__).parents[1] / "fake_driver.py")
assert spec is not None
assert spec.loader is not None
fake_driver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake_driver)

FIRST = Gpu("NVIDIA Pretended 4000", 89)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(fake_driver.build(tmp_path_factory.mktemp("driver")))


def has_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_a_machine_without_a_driver_gives_the_reason() -> None:
    state = driver_state()
    assert not state.devices
    assert state.reason == "libcuda.so.1 was not found, so there is no NVIDIA driver"


@pytest.mark.gpu
@pytest.mark.skipif(not has_driver(), reason="needs an NVIDIA driver")
def test_a_machine_with_a_gpu_names_it() -> None:
    state = driver_state()
    assert state.reason is None
    assert all(device.name and device.sm >= 50 for device in state.devices)
    assert state.devices


def test_names_and_compute_capabilities_are_read(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = str(driver / "libcuda.so.1")
    assert driver_state(library) == DriverState((FIRST,), None)
    monkeypatch.setenv("FAKE_GPUS", "2")
    assert driver_state(library) == DriverState((FIRST, Gpu("NVIDIA Pretended 5000", 120)), None)


@pytest.mark.parametrize("setting", [{"FAKE_GPUS": "0"}, {"FAKE_ERROR": "100"}])
def test_a_driver_without_a_gpu_gives_the_reason(
    driver: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, str]
) -> None:
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    state = driver_state(str(driver / "libcuda.so.1"))
    assert not state.devices
    assert state.reason is not None
    assert "no GPU that it shows" in state.reason


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("803", "cuInit gives error 803 (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)"),
        ("999", "cuInit gives error 999"),
        ("34", "is the stub that programs are linked with"),
    ],
)
def test_a_driver_that_fails_gives_its_error(
    driver: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_ERROR", code)
    state = driver_state(str(driver / "libcuda.so.1"))
    assert not state.devices
    assert state.reason is not None
    assert state.reason.endswith(words) or words in state.reason


def test_other_files_of_the_driver_s_name_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "libcuda.so.1"
    text.write_text("not a library")
    assert "does not load" in str(driver_state(str(text)).reason)
    assert "is no CUDA driver" in str(driver_state("libc.so.6").reason)


def test_the_driver_is_found_by_its_name(driver: Path) -> None:
    code = "from wavernn_trt.engines.gpu import driver_state; print(driver_state().devices)"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == f"({FIRST},)"
