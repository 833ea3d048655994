"""Shared fixtures: a tiny random voice, and the folder of data that is not committed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig

if TYPE_CHECKING:
    from wavernn_trt.export.families.wavernn import WaveRNN
    from wavernn_trt.runtime.vocoder import Vocoder

# Deadlines fail on busy machines; the same examples on every run keep a failure from coming and going.
hypothesis.settings.register_profile("wavernn-trt", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("wavernn-trt")

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fail-on-hidden-modules",
        action="store_true",
        help="fail if every test of a module was skipped: it would look as if it had been tested",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("WAVERNN_TRT_NIGHTLY"):
        return
    skip = pytest.mark.skip(reason="takes long and repeats a rule on full-size models; set WAVERNN_TRT_NIGHTLY=1")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)


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


TINY_MELS = 20

TINY_AUDIO = AudioConfig(
    sample_rate=16000,
    hop_length=40,
    win_length=160,
    n_fft=512,
    n_mels=TINY_MELS,
    fmin=50.0,
    reference_db=20.0,
    min_level_db=-80.0,
    mel_range=(-1.0, 0.0),
    clip_high=False,
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the test data in {path}, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def tiny_model() -> WaveRNN:
    """A random univoc WaveRNN, small enough to step in microseconds."""
    torch = pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    from wavernn_trt.export.families.univoc import univoc_from_state

    torch.set_num_threads(1)  # layers this small are slower on two, and much slower when those are shared
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int, scale: float = 0.4) -> object:
        return torch.randn(*shape, generator=generator) * scale

    conditioning, hidden, embedding, fc, classes = 6, 16, 8, 16, 64
    state = {}
    for layer, width in ((0, TINY_MELS), (1, 2 * conditioning)):
        for way in ("", "_reverse"):
            state[f"rnn1.weight_ih_l{layer}{way}"] = normal(3 * conditioning, width)
            state[f"rnn1.weight_hh_l{layer}{way}"] = normal(3 * conditioning, conditioning)
            state[f"rnn1.bias_ih_l{layer}{way}"] = normal(3 * conditioning)
            state[f"rnn1.bias_hh_l{layer}{way}"] = normal(3 * conditioning)
    state |= {
        "embedding.weight": normal(classes, embedding),
        "rnn2.weight_ih_l0": normal(3 * hidden, embedding + 2 * conditioning),
        "rnn2.weight_hh_l0": normal(3 * hidden, hidden),
        "rnn2.bias_ih_l0": normal(3 * hidden),
        "rnn2.bias_hh_l0": normal(3 * hidden),
        "fc1.weight": normal(fc, hidden),
        "fc1.bias": normal(fc),
        "fc2.weight": normal(classes, fc, scale=1.5),
        "fc2.bias": normal(classes),
    }
    return univoc_from_state(state)


@pytest.fixture(scope="session")
def make_vocoder() -> Callable[..., Vocoder]:
    """A function (model, audio, slots) -> a vocoder on the torch executor."""

    def make(model: WaveRNN, audio: AudioConfig = TINY_AUDIO, slots: int = 1) -> Vocoder:
        from wavernn_trt.runtime.executors.torch_executor import TorchExecutor
        from wavernn_trt.runtime.loaded_model import LoadedModel
        from wavernn_trt.runtime.vocoder import Vocoder

        return Vocoder(LoadedModel(Path("tiny"), model.config, audio, model.upsampling, TorchExecutor(model, slots)))

    return make


@pytest.fixture(scope="session")
def tiny_vocoder(tiny_model: WaveRNN, make_vocoder: Callable[..., Vocoder]) -> Vocoder:
    return make_vocoder(tiny_model)


@pytest.fixture(scope="session")
def tiny_vocoder_of_three(tiny_model: WaveRNN, make_vocoder: Callable[..., Vocoder]) -> Vocoder:
    """The same model with three streams in every chunk."""
    return make_vocoder(tiny_model, slots=3)


@pytest.fixture(scope="session")
def tiny_mel() -> Callable[..., NDArray[np.float32]]:
    """A function (frames, seed) -> a random mel in the tiny voice's range."""

    def make(frames: int, seed: int = 0) -> NDArray[np.float32]:
        return np.random.default_rng(seed).uniform(-1, 0, (TINY_MELS, frames)).astype(np.float32)

    return make
