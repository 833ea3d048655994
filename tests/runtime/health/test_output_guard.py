"""The output guard finds invalid samples soon, and raises no false alarm."""

from __future__ import annotations

import dataclasses
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.runtime.errors import DamagedOutputError, ExecutorError
from wavernn_trt.runtime.health.loudness import Loudness
from wavernn_trt.runtime.health.output_guard import STANDING_SECONDS, OutputGuard
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice

HOP, RATE, CHUNK = 200, 16000, 320
LONGEST = round(STANDING_SECONDS * RATE)
VOICE = open_model_directory(shipped_voice())
MODEL: ModelConfig = VOICE.model
AUDIO: AudioConfig = VOICE.audio
MIXTURE = dataclasses.replace(MODEL, family="coqui", output="logistic_mixture", outputs=30, mu_law=False)


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    """The mel of three seconds of a recording."""
    path = resources.files("wavernn_trt.runtime") / "voices" / "sample_mel.npy"
    mel: NDArray[np.float32] = np.load(Path(str(path)), allow_pickle=False)
    return mel


def level(value: float, frames: int = 200) -> NDArray[np.float32]:
    return np.full((80, frames), value, np.float32)


def watched(guard: OutputGuard, samples: NDArray[Any], size: int = CHUNK) -> int | None:
    """Number of samples received when the guard raised; ``None`` if it did not."""
    for start in range(0, len(samples), size):
        try:
            guard.check(start, samples[start : start + size])
        except DamagedOutputError:
            return min(start + size, len(samples))
    return None


@pytest.mark.parametrize("size", [100, 5000])
def test_speech_passes(plain: Vocoder, speech: NDArray[np.float32], size: int) -> None:
    labels = plain.labels(speech[:, :120], seed=3)
    assert watched(OutputGuard(MODEL, AUDIO, speech), labels, size) is None


def test_recordings_pass(plain: Vocoder, shared_data: Path) -> None:
    recording, rate = soundfile.read(shared_data / "ljspeech" / "LJ001-0002.flac")
    mel = plain.mel(recording, rate)
    assert watched(OutputGuard(MODEL, AUDIO, mel), plain.labels(mel, seed=1)) is None


@pytest.mark.parametrize("what", ["silence", "noise", "loudest", "hum", "step"])
def test_waveforms_of_other_mels_pass(plain: Vocoder, what: str) -> None:
    random = np.random.default_rng(0)
    mel = {
        "silence": lambda: level(-1.0, 100),
        "noise": lambda: random.uniform(-1, 0, (80, 100)).astype(np.float32),
        "loudest": lambda: level(0.0, 100),
        "hum": lambda: plain.mel(0.5 * np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE), RATE),
        "step": lambda: plain.mel(np.full(RATE, 0.5), RATE),
    }[what]()
    assert watched(OutputGuard(MODEL, AUDIO, mel), plain.labels(mel, seed=2)) is None


def test_digital_silence_may_last(speech: NDArray[np.float32]) -> None:
    minute = np.full(60 * RATE, 128, np.int32)
    assert watched(OutputGuard(MODEL, AUDIO, level(-1.0, 60 * RATE // HOP)), minute) is None
    hum = level(-1.0, 60 * RATE // HOP)
    hum[:2] = 0.0  # a voice may leave it out
    assert watched(OutputGuard(MODEL, AUDIO, hum), minute) is None
    burst = level(-1.0, 60 * RATE // HOP)
    burst[:, : LONGEST // HOP - 1] = 0.0  # less than a tenth of a second
    assert watched(OutputGuard(MODEL, AUDIO, burst), minute) is None
    burst[:, LONGEST // HOP - 1] = 0.0
    assert watched(OutputGuard(MODEL, AUDIO, burst), minute) == LONGEST


@pytest.mark.parametrize("label", [1, 128])
def test_a_constant_waveform_is_found_where_the_mel_is_speech(speech: NDArray[np.float32], label: int) -> None:
    constant = np.full(speech.shape[1] * HOP, label, np.int32)
    found = watched(OutputGuard(MODEL, AUDIO, speech), constant)
    assert found is not None
    assert found <= RATE  # within a second, pauses included


@pytest.mark.parametrize("label", [0, 255])
def test_a_constant_extreme_value_is_not_silence(label: int) -> None:
    constant = np.full(RATE, label, np.int32)
    assert watched(OutputGuard(MODEL, AUDIO, level(-1.0)), constant) == LONGEST
    assert watched(OutputGuard(MODEL, AUDIO, level(-1.0)), constant[: LONGEST - 1]) is None


def test_a_waveform_that_becomes_constant_is_found(plain: Vocoder, speech: NDArray[np.float32]) -> None:
    labels = plain.labels(speech[:, :60], seed=3)
    stuck = np.concatenate([labels, np.full(2 * LONGEST, labels[-1])])
    loud = np.concatenate([speech[:, :60], level(-0.3, 40)], axis=1)
    found = watched(OutputGuard(MODEL, AUDIO, loud), stuck)
    assert found is not None
    assert len(labels) < found <= len(labels) + LONGEST + CHUNK + HOP


@given(st.data(), st.integers(0, 3 * LONGEST))
def test_the_size_of_pieces_does_not_matter(data: st.DataObject, before: int) -> None:
    """For all cuts of the samples, a run that is long enough is found, and a shorter one is not."""
    random = np.random.default_rng(before)
    moving = random.integers(1, 255, before).astype(np.int32)
    cuts = sorted(data.draw(st.sets(st.integers(1, before + 2 * LONGEST + 2 * CHUNK), max_size=12)))
    for count, found in ((LONGEST - 1, False), (LONGEST + 2 * CHUNK + LONGEST // 2, True)):
        samples = np.concatenate([moving, np.full(count, 9, np.int32), np.array([7], np.int32)])
        guard, caught = OutputGuard(MODEL, AUDIO, level(-0.2, 60)), False
        edges = [0, *[cut for cut in cuts if cut < len(samples)], len(samples)]
        try:
            for start, stop in pairwise(edges):
                guard.check(start, samples[start:stop])
        except DamagedOutputError:
            caught = True
        if not found or max(np.diff(edges)) <= CHUNK or len(edges) == 2:
            assert caught == found


def test_a_run_inside_a_long_piece_is_found() -> None:
    random = np.random.default_rng(1)
    samples = random.integers(1, 255, 8 * LONGEST).astype(np.int32)
    samples[3 * LONGEST : 4 * LONGEST + 9] = 77
    with pytest.raises(
        DamagedOutputError, match=r"samples 4800 to 6408 are all 77, 1609 of them where the mel is loud"
    ):
        OutputGuard(MODEL, AUDIO, level(-0.2)).check(0, samples)


def test_a_stream_that_restarts_is_checked_from_its_new_start() -> None:
    guard = OutputGuard(MODEL, AUDIO, level(-0.2))
    constant = np.full(LONGEST - 1, 5, np.int32)
    guard.check(0, constant)
    guard.check(0, constant)  # the same samples again count once
    with pytest.raises(DamagedOutputError):
        guard.check(LONGEST - 1, constant[:1])
    guard = OutputGuard(MODEL, AUDIO, level(-0.2))
    guard.check(
        6000, np.arange(5, 5 + CHUNK, dtype=np.int32)[::-1] % 200
    )  # ends with the value with which it begins again
    assert watched(guard, constant[:1].repeat(3 * LONGEST)) == LONGEST
    guard = OutputGuard(MODEL, AUDIO, level(-0.2))
    guard.check(0, constant[:9])
    guard.check(3 * LONGEST, constant[:9])  # the samples between do not belong to this stream


def test_each_fold_is_checked_on_its_own() -> None:
    first = OutputGuard(MODEL, AUDIO, level(-0.2))
    second = first.another()
    constant = np.full(LONGEST - 1, 5, np.int32)
    first.check(0, constant)
    second.check(LONGEST - 1, constant)
    for guard, start in ((first, LONGEST - 1), (second, 2 * LONGEST - 2)):
        with pytest.raises(DamagedOutputError):
            guard.check(start, constant[:1])


def test_a_mel_may_arrive_while_it_is_decoded() -> None:
    guard = OutputGuard(MODEL, AUDIO)
    constant = np.full(2 * LONGEST, 5, np.int32)
    assert watched(guard, constant) is None  # without frames, nothing is known to be loud
    loudness = Loudness(MODEL, AUDIO)
    guard = OutputGuard(MODEL, AUDIO, loudness=loudness)
    found = None
    for start in range(0, len(constant), HOP):
        loudness.extend(level(-0.2, 1))
        try:
            guard.check(start, constant[start : start + HOP])
        except DamagedOutputError:
            found = start + HOP
            break
    assert found == LONGEST


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_found_at_once(value: float) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, CHUNK).astype(np.float32)
    guard = OutputGuard(MIXTURE, AUDIO, level(-1.0))
    guard.check(0, samples)
    samples[17] = value
    with pytest.raises(DamagedOutputError, match=f"sample {CHUNK + 17} is {value}"):
        guard.check(CHUNK, samples)


def test_values_at_the_limit_are_found_and_quiet_ones_are_not() -> None:
    guard = OutputGuard(MIXTURE, AUDIO, level(-1.0))
    guard.check(0, np.zeros(5 * LONGEST, np.float32))
    with pytest.raises(DamagedOutputError, match="at an end of the scale"):
        guard.check(5 * LONGEST, np.ones(LONGEST, np.float32))


@pytest.mark.parametrize("label", [256, -1])
def test_an_unknown_class_is_found(label: int) -> None:
    samples = np.full(CHUNK, 100, np.int32)
    samples[5] = label
    with pytest.raises(DamagedOutputError, match=f"sample 5 is class {label}, expected one from 0 to 255"):
        OutputGuard(MODEL, AUDIO, level(-1.0)).check(0, samples)


def test_an_empty_piece_passes() -> None:
    OutputGuard(MODEL, AUDIO, level(-1.0)).check(0, np.zeros(0, np.int32))


def test_damaged_output_is_a_failure_of_the_executor() -> None:
    assert issubclass(DamagedOutputError, ExecutorError)
