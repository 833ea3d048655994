"""Latency and speed of streams of the shipped voice, with bounds that hold on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import numpy as np
import pytest

from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.vocoder import Vocoder

TARGET = 0.06
"""Seconds from a mel to its first frame of 20 ms, on one free core that multiplies matrices at `USUAL_FLOPS`."""
USUAL_FLOPS = 200e9
"""Speed of a float32 matrix product on one core, in FLOP/s."""


@pytest.fixture(scope="module")
def speaker(voice: ModelDirectory) -> Iterator[Vocoder]:
    with Vocoder.load(voice.path, "onnxruntime", threads=1) as vocoder:
        vocoder.vocode(mel_of(vocoder, 0.1))  # warm
        yield vocoder


@pytest.fixture
def slowness() -> float:
    """How many times slower than a usual core a matrix product is now; at least 1."""
    factor = np.random.default_rng(0).random((512, 512), np.float32)
    taken = []
    for _ in range(15):
        start = time.process_time()  # of all threads together
        factor @ factor
        taken.append(time.process_time() - start)
    return max(1.0, USUAL_FLOPS / (2 * 512**3 / max(median(taken), 1e-4)))


def mel_of(vocoder: Vocoder, seconds: float) -> np.ndarray:
    audio = vocoder.config.audio
    frames = round(seconds * audio.sample_rate / audio.hop_length)
    return np.random.default_rng(0).uniform(*audio.mel_range, (audio.n_mels, frames)).astype(np.float32)


@pytest.mark.parametrize("seconds", [1, 20])
def test_the_first_frame_comes_within_the_target(speaker: Vocoder, slowness: float, seconds: int) -> None:
    mel, elapsed, worked = mel_of(speaker, seconds), [], []
    for seed in range(4):
        start, work = time.perf_counter(), time.process_time()
        with speaker.stream(mel, seed=seed) as stream:
            assert len(stream.read()) == 320
            elapsed.append(time.perf_counter() - start)
            worked.append(time.process_time() - work)
    assert min(worked) < TARGET * slowness
    assert min(elapsed) < 5 * TARGET * slowness


def test_one_core_decodes_speech_faster_than_real_time(speaker: Vocoder, slowness: float) -> None:
    mel, worked = mel_of(speaker, 1), []
    for seed in range(2):
        work = time.process_time()
        with speaker.stream(mel, seed=seed, encoding="int16", dither=True) as stream:
            samples = sum(len(frame) for frame in stream.frames_view())
        worked.append(time.process_time() - work)
        assert samples == speaker.sample_rate
        assert stream.overruns == 0
        assert stream.underruns == 0
    assert min(worked) < slowness


def test_a_reader_that_does_not_wait_gets_every_sample(speaker: Vocoder) -> None:
    """Silence comes only where samples are missing, and is counted."""
    mel = mel_of(speaker, 0.5)
    expected = speaker.vocode(mel, seed=9)
    pieces, silence, out = [], 0, np.empty(100, np.float32)
    with speaker.stream(mel, seed=9) as stream:
        while not stream.ended:
            taken = stream.fill(out)
            pieces.append(out[:taken].copy())
            assert not out[taken:].any()
            silence += len(out) - taken
            if not taken:
                pieces.append(stream.read(1))  # until there is more
    assert np.array_equal(np.concatenate(pieces), expected)
    assert silence - 100 < stream.underruns <= silence, "silence after the end is no underrun"
