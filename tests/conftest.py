"""Shared fixtures: a tiny random voice, and the folder of data that is not committed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

import wavernn_trt.scripts
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.export.model_directory import open_model_directory

if TYPE_CHECKING:
    from wavernn_trt.export.families.wavernn import WaveRNN
    from wavernn_trt.runtime.vocoder import Vocoder

# Deadlines fail on busy machines; the same examples on every run keep a failure from coming and going.
hypothesis.settings.register_profile("wavernn-trt", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("wavernn-trt")

ROOT = Path(__file__).resolve().parents[1]

if importlib.util.find_spec("wavernn_trt.scripts.gpu") is None:
    # The wheel leaves scripts/gpu out, as it is run from a clone only; its tests find it there.
    wavernn_trt.scripts.__path__.append(str(ROOT / "scripts"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fail-on-hidden-modules",
        action="store_true",
        help="fail if every test of a module was skipped: it would look as if it had been tested",
    )


_LONG = (
    ("slow", "WAVERNN_TRT_ALL", "takes long; .ci/run runs it, and so does WAVERNN_TRT_ALL=1"),
    ("nightly", "WAVERNN_TRT_NIGHTLY", "takes long and repeats a rule on full-size models; set WAVERNN_TRT_NIGHTLY=1"),
)
"""Markers of tests that are skipped unless a variable is set, and the reason that is given."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, variable, reason in _LONG:
        if not os.environ.get(variable):
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_sessionfinish(session: pytest.Session) -> None:
    # With pytest-xdist, the process that gives the workers their tests has all reports; a worker has its own only.
    if not session.config.getoption("--fail-on-hidden-modules") or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    # Tests that need a GPU are skipped wherever there is none.
    reports = (report for report in reporter.stats.get("skipped", []) if "gpu" not in report.keywords)
    skipped = {report.nodeid.split("::")[0] for report in reports}
    others = [report for kind in ("passed", "failed", "xfailed") for report in reporter.stats.get(kind, [])]
    ran = {report.nodeid.split("::")[0] for report in others}
    if hidden := sorted(skipped - ran):
        reporter.write_line(f"every test was skipped in: {', '.join(hidden)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def host_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of the CUDA kernels built for this machine, once for all processes of pytest-xdist."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not on PATH; the kernels' host build needs it")
    filelock = pytest.importorskip("filelock", reason="several processes share the kernels' host build")
    from host_kernels import build_host_kernels

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with filelock.FileLock(folder / "host_build.lock"):
        library = folder / "host_build" / "kernels.so"
        if not library.exists():
            library.parent.mkdir(exist_ok=True)
            build_host_kernels(library.with_suffix(".part")).replace(library)
        return library


TINY = ROOT / "tests" / "fixtures" / "models" / "tiny"
"""Written by tests/fixtures/make_models.py."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the test data in {path}, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def tiny_model() -> WaveRNN:
    """The tiny voice's PyTorch modules."""
    torch = pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    from wavernn_trt.export.checkpoints.checkpoint import read_checkpoint

    torch.set_num_threads(1)  # layers this small are slower on two, and much slower when those are shared
    return read_checkpoint(TINY).model


@pytest.fixture(scope="session")
def make_vocoder() -> Callable[..., Vocoder]:
    """A function (slots, audio) -> a vocoder of the tiny voice, run by ONNX Runtime."""

    def make(slots: int = 1, audio: AudioConfig | None = None) -> Vocoder:
        from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
        from wavernn_trt.runtime.load_options import LoadOptions
        from wavernn_trt.runtime.loaded_model import LoadedModel
        from wavernn_trt.runtime.vocoder import Vocoder

        directory = open_model_directory(TINY)
        executor = OnnxRuntimeExecutor(directory, threads=1)
        loaded = LoadedModel.of(directory, executor, options=LoadOptions("onnxruntime", batch=slots, threads=1))
        return Vocoder(dataclasses.replace(loaded, audio=audio or directory.audio))

    return make


@pytest.fixture(scope="session")
def tiny_vocoder(make_vocoder: Callable[..., Vocoder]) -> Vocoder:
    return make_vocoder()


@pytest.fixture(scope="session")
def tiny_vocoder_of_three(make_vocoder: Callable[..., Vocoder]) -> Vocoder:
    """The same model with three streams in every chunk."""
    return make_vocoder(3)


@pytest.fixture(scope="session")
def tiny_mel() -> Callable[..., NDArray[np.float32]]:
    """A function (frames, seed) -> a random mel in the tiny voice's range."""
    audio = open_model_directory(TINY).audio
    low, high = audio.mel_range

    def make(frames: int, seed: int = 0) -> NDArray[np.float32]:
        return np.random.default_rng(seed).uniform(low, high, (audio.n_mels, frames)).astype(np.float32)

    return make
