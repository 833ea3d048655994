"""Long mels are conditioned in blocks, with the bits of the whole mel's conditioning and in bounded memory."""

from __future__ import annotations

import dataclasses
import logging
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import simulated_device as simulated
from conditioning_rows import expanded_columns
from numpy.typing import NDArray
from small_voice import SMALL_VOICE

from wavernn_trt.engines.gpu import Gpu
from wavernn_trt.export.model_directory import (
    CONDITIONER_BLOCKS,
    ModelDirectory,
    open_model_directory,
    write_manifest,
)
from wavernn_trt.runtime.conditioning import mel_conditioner
from wavernn_trt.runtime.conditioning.mel_blocks import BLOCK_FRAMES
from wavernn_trt.runtime.conditioning.mel_conditioner import (
    WHOLE_FRAMES,
    WHOLE_RECURRENT_FRAMES,
    BlockConditioning,
    MelConditioner,
    held_rows,
)
from wavernn_trt.runtime.conditioning.windows import Conditioning, ConditioningWindows, FloatArray, WholeConditioning
from wavernn_trt.runtime.errors import ExecutorError
from wavernn_trt.runtime.executors.tensorrt_executor import Engine, TensorRTExecutor
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice

SmallDirectory = Callable[[str], ModelDirectory]
PATIENCE = 60.0
LENGTHS = (WHOLE_FRAMES + 1, WHOLE_FRAMES + 63, WHOLE_FRAMES + 64, WHOLE_FRAMES + 65, 700)
on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the sums of MLAS on x86-64")


def mel_of(opened: LoadedModel, frames: int) -> FloatArray:
    return np.random.default_rng(frames).random((opened.audio.n_mels, frames)).astype(np.float32)


def conditioner_of(opened: LoadedModel, steps: int) -> tuple[MelConditioner, ConditioningWindows]:
    windows = ConditioningWindows(opened.model, opened.audio, steps, opened.upsampling)
    return MelConditioner(opened.model, opened.audio, windows, opened.executor), windows


def read(opened: LoadedModel, conditioning: Conditioning, start: int) -> list[NDArray[np.float32]]:
    """The conditioning of the chunk from ``start`` on."""
    return expanded_columns(opened.model, conditioning.window(start))


def assert_reads_the_same(opened: LoadedModel, frames: int, steps: int) -> None:
    condition, windows = conditioner_of(opened, steps)
    mel = mel_of(opened, frames)
    blocks, whole = condition(mel), WholeConditioning(windows, opened.executor.condition(mel))
    assert isinstance(blocks, BlockConditioning)
    assert blocks.steps == whole.steps == frames * opened.audio.hop_length
    for start in range(0, frames * opened.audio.hop_length, steps):
        for found, wanted in zip(read(opened, blocks, start), read(opened, whole, start), strict=True):
            assert np.array_equal(found, wanted)
        assert blocks.held <= held_rows(windows)


@pytest.fixture(scope="module")
def wide(reference: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """A model whose conditioner sums more products than MLAS adds in one part, with wide rows."""
    import torch

    from wavernn_trt.export import export, read_checkpoint

    folder = tmp_path_factory.mktemp("wide")
    layout = dataclasses.replace(
        reference.SMALL, n_mels=80, compute_size=150, aux_size=36, hidden_size=200, fc_sizes=(100, 100)
    )
    torch.save(reference.random_state(layout), folder / "latest.pyt")
    return export(read_checkpoint(folder / "latest.pyt"), folder / "voice", steps=4).directory


@pytest.mark.parametrize("layout", ["fatchord", "no_aux", "linear", "linear_no_aux"])
def test_blocks_have_the_bits_of_the_whole_mel(layout: str, small_directory: SmallDirectory) -> None:
    opened = load_model(small_directory(layout).path, LoadOptions("onnxruntime", threads=1))
    for frames in LENGTHS:
        for steps in (20, 320, 1000):  # part of a block, and more than two
            assert_reads_the_same(opened, frames, steps)


@on_x86
def test_blocks_of_a_wide_conditioner_have_the_bits_of_the_whole_mel_with_any_number_of_threads(
    wide: ModelDirectory,
) -> None:
    opened = [load_model(wide.path, LoadOptions("onnxruntime", threads=threads)) for threads in (1, 4)]
    for each in opened:
        for frames in (*LENGTHS, 1025):
            assert_reads_the_same(each, frames, 320)
    mel = mel_of(opened[0], 130)
    assert np.array_equal(*(each.executor.condition(mel) for each in opened))


@pytest.mark.parametrize(("layout", "threads"), [("voice", 1), ("voice", 2), ("univoc", 1)])
def test_blocks_of_a_recurrent_conditioner_have_the_bits_of_the_whole_mel(
    layout: str,
    threads: int,
    voice: ModelDirectory,
    small_directory: SmallDirectory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mel_conditioner, "WHOLE_RECURRENT_FRAMES", 0)
    directory = voice if layout == "voice" else small_directory(layout)
    opened = load_model(directory.path, LoadOptions("onnxruntime", threads=threads))
    for frames in (1, 2, 63, 64, 65, 129, WHOLE_RECURRENT_FRAMES + 1):
        assert_reads_the_same(opened, frames, 320)


@pytest.fixture
def earlier_voice(tmp_path: Path) -> ModelDirectory:
    """The small voice without its conditioner for blocks, as earlier versions exported it."""
    path = Path(shutil.copytree(SMALL_VOICE, tmp_path / "earlier"))
    (path / CONDITIONER_BLOCKS).unlink()
    write_manifest(path)
    return open_model_directory(path)


def test_a_directory_of_an_earlier_version_conditions_long_mels_in_one_run_with_one_warning(
    earlier_voice: ModelDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened = load_model(earlier_voice.path, LoadOptions("onnxruntime", threads=1))
    monkeypatch.setattr(mel_conditioner, "WHOLE_RECURRENT_FRAMES", 20)
    condition, _ = conditioner_of(opened, 320)
    with caplog.at_level(logging.WARNING):
        assert isinstance(condition(mel_of(opened, 20)), WholeConditioning)
        assert not caplog.messages
        assert isinstance(condition(mel_of(opened, 21)), WholeConditioning)
        assert isinstance(condition(mel_of(opened, 22)), WholeConditioning)
    assert condition.nbytes(1000, 1) == 4 * 1000 * opened.model.columns
    (message,) = caplog.messages
    assert "no conditioner_blocks.onnx; export the checkpoint again" in message


@pytest.fixture
def vocoder(small_directory: SmallDirectory) -> Iterator[Vocoder]:
    with Vocoder.load(small_directory("fatchord").path, "onnxruntime", batch=3, threads=1) as vocoder:
        yield vocoder


@pytest.mark.parametrize("layout", ["fatchord", "linear", "univoc"])
def test_every_call_gives_a_long_mel_the_same_waveform(
    layout: str, small_directory: SmallDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_directory(layout).path
    monkeypatch.setattr(mel_conditioner, "WHOLE_RECURRENT_FRAMES", WHOLE_FRAMES)
    with Vocoder.load(path, "onnxruntime", batch=3, threads=1) as vocoder:
        mels = [mel_of(vocoder.loaded, frames) for frames in (700, 3, 320, 513)]
        runs = count_runs(vocoder, monkeypatch)
        alone = [vocoder.vocode(mel, seed=1) for mel in mels]
        assert all(map(np.array_equal, vocoder.vocode_batch(mels, seeds=[1] * 4), alone))
        assert np.array_equal(np.concatenate(list(vocoder.stream(mels[0], seed=1))), alone[0])
        assert np.array_equal(vocoder.submit(Request(mels[0], 1, samples=2500)).result(), alone[0][:2500])
        folded = vocoder.vocode(mels[0], seed=1, fold=700, overlap=100)
        labels = vocoder.labels(mels[0], seed=1)
        if layout == "fatchord":  # univoc's streams of pieces have a shorter look-ahead
            pieces = iter(np.array_split(mels[0], 9, axis=1))
            assert np.array_equal(np.concatenate(list(vocoder.stream(pieces, seed=1))), alone[0])
        forced = None if layout == "linear" else vocoder.teacher_forced(mels[0], labels)
        assert max(runs, default=0) <= WHOLE_FRAMES
        assert vocoder.statistics().conditioning_bytes == 0
    for limit in ("WHOLE_FRAMES", "WHOLE_RECURRENT_FRAMES"):
        monkeypatch.setattr(mel_conditioner, limit, 10**6)
    with Vocoder.load(path, "onnxruntime", batch=3, threads=1) as whole:
        assert np.array_equal(whole.vocode(mels[0], seed=1), alone[0])
        assert np.array_equal(whole.vocode(mels[0], seed=1, fold=700, overlap=100), folded)
        assert np.array_equal(whole.labels(mels[0], seed=1), labels)
        if forced is not None:
            assert np.array_equal(whole.teacher_forced(mels[0], labels), forced)


def test_a_block_that_several_folds_read_is_computed_once(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(vocoder, monkeypatch)
    mel = mel_of(vocoder.loaded, 64 * 12)
    vocoder.vocode(mel, fold=64 * 6, overlap=12)
    assert all(
        frames == BLOCK_FRAMES + 4 for frames in runs[5:]
    )  # after those that measure how far the conditioner reads
    assert len(runs) <= 5 + 2 * 12


def count_runs(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of every run of the conditioner from now on."""
    runs: list[int] = []
    condition = vocoder.executor.condition

    def counted(mel: FloatArray) -> FloatArray:
        runs.append(mel.shape[1])
        return condition(mel)

    monkeypatch.setattr(vocoder.executor, "condition", counted)
    return runs


def test_a_mel_is_conditioned_only_as_far_as_it_is_decoded(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(vocoder, monkeypatch)
    mel = mel_of(vocoder.loaded, 64 * 500)
    stream = vocoder.stream(mel, seconds=0.02)
    next(stream)
    held = vocoder.statistics().conditioning_bytes
    assert held <= 5 * 64 * 4 * vocoder.config.model.columns  # of 500 blocks
    stream.close()
    assert len(runs) <= 5 + 8
    assert vocoder.vocode(mel[:, :10]).shape == (60,)
    assert vocoder.statistics().conditioning_bytes == 0


def test_no_more_blocks_of_a_cancelled_utterance_are_conditioned(
    vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(vocoder, monkeypatch)
    begun = threading.Event()
    ticket = vocoder.submit(Request(mel_of(vocoder.loaded, 64 * 2000)), progress=lambda _: begun.set())
    assert begun.wait(PATIENCE)
    ticket.cancel()
    vocoder.vocode(mel_of(vocoder.loaded, 300))
    seen = len(runs)
    assert seen < 1000
    vocoder.vocode(mel_of(vocoder.loaded, 10))
    assert len(runs) == seen + 1


@pytest.mark.parametrize("fold", [None, 700])
def test_a_block_that_cannot_be_conditioned_fails_its_own_utterance_only(
    fold: int | None, vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition, wanted = vocoder.executor.condition, vocoder.vocode(mel_of(vocoder.loaded, 300))
    bad = mel_of(vocoder.loaded, 1000)
    bad[:, 600] = 1.25

    def fragile(mel: FloatArray) -> FloatArray:
        if (mel == 1.25).all(axis=0).any():
            raise MemoryError("no room")
        return condition(mel)

    monkeypatch.setattr(vocoder.executor, "condition", fragile)
    fails = vocoder.submit(Request(bad, fold=fold))
    fine = vocoder.submit(Request(mel_of(vocoder.loaded, 300)))
    with pytest.raises(ExecutorError, match="the executor failed: MemoryError: no room"):
        fails.result(PATIENCE)
    assert np.array_equal(fine.result(PATIENCE), wanted)
    stream = vocoder.stream(bad)
    with pytest.raises(ExecutorError, match="no room"):
        list(stream)


def test_a_conditioner_that_hangs_at_a_late_block_is_abandoned(
    small_directory: SmallDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = load_model(small_directory("fatchord").path, LoadOptions("onnxruntime", threads=1))
    condition, released = opened.executor.condition, threading.Event()
    bad = mel_of(opened, 1000)
    bad[:, 600] = 1.25

    def hangs(mel: FloatArray) -> FloatArray:
        if (mel == 1.25).all(axis=0).any():
            released.wait(PATIENCE)
        return condition(mel)

    with Vocoder(opened, 2, SchedulerLimits(hang_seconds=0.3)) as vocoder:
        wanted = vocoder.vocode(mel_of(opened, 400))
        monkeypatch.setattr(opened.executor, "condition", hangs)
        hung, fine = vocoder.submit(Request(bad)), vocoder.submit(Request(mel_of(opened, 400)))
        with pytest.raises(ExecutorError, match="does not answer"):
            hung.result(PATIENCE)
        assert np.array_equal(fine.result(PATIENCE), wanted)
        assert np.array_equal(vocoder.vocode(mel_of(opened, 400)), wanted)
        released.set()


def test_a_long_utterance_keeps_its_bits_when_a_lane_fails_late(
    vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mel = mel_of(vocoder.loaded, 2000)
    wanted = vocoder.vocode(mel)
    executor: Any = vocoder.executor
    decode, chunks = executor.decode, iter(range(10**6))

    def fails_once(*arguments: Any) -> Any:
        if next(chunks) == 30:  # long after the first blocks were freed
            raise RuntimeError("CUDA error 700")
        return decode(*arguments)

    monkeypatch.setattr(executor, "decode", fails_once)
    assert np.array_equal(vocoder.vocode(mel), wanted)
    assert vocoder.statistics().restarted == 1


def engine_of(directory: ModelDirectory, frames: tuple[int, int, int]) -> LoadedModel:
    plans = [simulated.OnnxPlan(directory, one) for one in simulated.records(directory, frames=frames).values()]
    engine = Engine(simulated.SimulatedDevice(0), *plans)
    executor = TensorRTExecutor(directory, "tensorrt_rtx", LoadOptions(), Gpu("Pretended", 89), engine)
    return LoadedModel.of(directory, executor)


@pytest.mark.parametrize(("frames", "mel"), [((2, 64, 256), 1000), ((100, 200, 300), 280)])
def test_an_engine_conditions_mels_that_are_longer_than_its_plan_or_shorter_than_a_block(
    frames: tuple[int, int, int], mel: int, small_directory: SmallDirectory
) -> None:
    directory = small_directory("fatchord")
    opened = engine_of(directory, frames)
    reference = load_model(directory.path, LoadOptions("onnxruntime", threads=1))
    condition, _ = conditioner_of(opened, 40)
    expected, _ = conditioner_of(reference, 40)
    found, wanted = condition(mel_of(opened, mel)), expected(mel_of(opened, mel))
    assert isinstance(found, BlockConditioning) == (frames[0] == 2)
    for start in (0, 40, 6 * mel - 50):
        for one, other in zip(read(opened, found, start), read(reference, wanted, start), strict=True):
            assert np.array_equal(one, other)


STREAM = """
import sys, numpy as np
import wavernn_trt
with wavernn_trt.load(sys.argv[1], "onnxruntime", threads=1) as vocoder:
    low, high = vocoder.config.audio.mel_range
    mel = np.random.default_rng(0).random((80, int(sys.argv[2])), np.float32)
    mel *= np.float32(high - low)
    mel += np.float32(low)
    for _ in range(2):
        with vocoder.stream(mel) as stream:
            next(stream)
"""
VOCODE = """
import sys
from wavernn_trt.scripts.cli import main
options = ["--backend", "onnxruntime", "--threads", "1", "-q"]
assert main(["vocode", sys.argv[3], "-o", sys.argv[4], "--model", sys.argv[1], *options]) == 0
"""
PEAK = """
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")))
"""


def peak_memory(code: str, directory: ModelDirectory, frames: int, *arguments: str) -> int:
    """Bytes, of a process that runs the code."""
    command = [sys.executable, "-c", code + PEAK, str(directory.path), str(frames), *arguments]
    return 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def growth_a_frame(directory: ModelDirectory) -> float:
    """Bytes that each frame adds to the peak memory of a process that streams the beginning of a long mel."""
    return (peak_memory(STREAM, directory, 50_000) - peak_memory(STREAM, directory, 1_000)) / 49_000


from_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")


@from_proc
@pytest.mark.parametrize("kind", ["wide", pytest.param("shipped", marks=pytest.mark.slow)])
def test_peak_memory_grows_by_the_size_of_the_mel_only(kind: str, request: pytest.FixtureRequest) -> None:
    directory = open_model_directory(shipped_voice()) if kind == "shipped" else request.getfixturevalue("wide")
    mel, rows = 80 * 4, directory.model.columns * 4
    # The caller's mel, the vocoder's copy, and the check's arrays.
    assert growth_a_frame(directory) < 4 * mel < rows / 2


@pytest.fixture(scope="module")
def narrow(reference: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """A model of fatchord's layout with 32 units, whose waveform is not constant."""
    import torch

    from wavernn_trt.export import export, read_checkpoint

    folder = tmp_path_factory.mktemp("narrow")
    sizes = {"compute_size": 32, "aux_size": 32, "hidden_size": 32, "fc_sizes": (32, 32)}
    state = reference.random_state(dataclasses.replace(reference.SMALL, n_mels=80, **sizes))
    decoder = {name: 0.1 * value for name, value in state.items() if name.startswith(("rnn", "fc", "I."))}
    torch.save({**state, **decoder}, folder / "latest.pyt")
    return export(read_checkpoint(folder / "latest.pyt"), folder / "voice", steps=4).directory


@from_proc
def test_memory_of_vocoding_a_file_grows_by_mel_and_waveform_only(narrow: ModelDirectory, tmp_path: Path) -> None:
    def peak(frames: int) -> int:
        np.save(tmp_path / "mel.npy", 0.2 * np.random.default_rng(0).random((80, frames), np.float32))
        out = tmp_path / f"{frames}"
        found = peak_memory(VOCODE, narrow, frames, str(tmp_path / "mel.npy"), str(out))
        assert (out / "mel.wav").stat().st_size > 2 * frames * narrow.audio.hop_length
        shutil.rmtree(out)
        return found

    # The mel twice and the waveform are 0.4 of the rows; a run over the whole mel takes three times the rows.
    # On a loaded machine, threads may wait for each other and raise a peak: the smallest of three counts.
    growth = []
    while len(growth) < 3:
        growth.append((peak(25_000) - peak(500)) / 24_500)
        if growth[-1] < narrow.model.columns * 4:
            return
    pytest.fail(f"bytes a frame: found {growth}, expected less than {narrow.model.columns * 4}")
