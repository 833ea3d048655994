"""The shipped voice on ONNX Runtime: the same promises as the reference executor's, and agreement with it."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import wavernn_trt
from wavernn_trt.runtime.vocoder import Vocoder


@pytest.fixture(scope="module")
def voice() -> Vocoder:
    return wavernn_trt.load(batch=5)


@pytest.fixture(scope="module")
def mel(voice: Vocoder) -> NDArray[np.float32]:
    """A rising and falling buzz, 0.6 s."""
    seconds = np.arange(9600) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 2 * seconds)) / 16000
    return voice.mel(sum(np.sin(k * phase) / k for k in range(1, 20)) * np.hanning(9600) / 4, 16000)


def test_loading_takes_less_than_two_seconds(voice: Vocoder) -> None:
    def load() -> float:
        started = time.perf_counter()
        wavernn_trt.load()
        return time.perf_counter() - started

    assert min(load() for _ in range(3)) < 2


def test_the_reference_decodes_as_many_streams_together_as_are_asked_for() -> None:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    pytest.importorskip("safetensors", reason="the reference reads the voice's weights with safetensors")
    for batch, streams in ((None, 1), (3, 3)):
        vocoder = wavernn_trt.load(backend="torch", batch=batch)
        assert (vocoder.batch, vocoder.executor.slots) == (streams, streams)


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_streams_and_orders_have_equal_bits(voice: Vocoder, mel: NDArray[np.float32], threads: int) -> None:
    vocoder = wavernn_trt.load(batch=5, threads=threads)
    mels = [mel[:, :count] for count in (1, 3, 48, 20, 7, 33, 11)]
    alone = [vocoder.vocode(one, seed=i) for i, one in enumerate(mels)]
    together = vocoder.vocode_batch(mels, seeds=range(7))
    backwards = vocoder.vocode_batch(mels[::-1], seeds=range(6, -1, -1))[::-1]
    streamed = [np.concatenate(list(vocoder.stream(one, seed=i, frame=100))) for i, one in enumerate(mels)]
    for first, *others in zip(alone, together, backwards, streamed, strict=True):
        assert all(np.array_equal(first, other) for other in others)


def test_it_agrees_with_the_reference(voice: Vocoder, mel: NDArray[np.float32]) -> None:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    pytest.importorskip("safetensors", reason="the reference reads the voice's weights with safetensors")
    reference = wavernn_trt.load(backend="torch")
    short = mel[:, 10:30]
    labels = voice.labels(short, seed=1)
    logits = voice.teacher_forced(short, labels)
    np.testing.assert_allclose(logits, reference.teacher_forced(short, labels), atol=1e-3)
    agreeing = (reference.labels(short, seed=1) == labels).cumprod().sum()
    assert agreeing > 500  # rounding may part the trajectories later


def test_folds_sound_like_the_whole(voice: Vocoder, shared_data: Path) -> None:
    mel = voice.mel(*soundfile.read(shared_data / "ljspeech" / "LJ001-0002.flac"))
    whole, other, folded = voice.vocode(mel), voice.vocode(mel, seed=1), voice.vocode(mel, fold=8000, overlap=800)
    assert folded.shape == whole.shape
    distance = [np.abs(voice.mel(wave, 16000) - voice.mel(whole, 16000)).mean() for wave in (folded, other)]
    assert distance[0] < 1.2 * distance[1]
    assert np.abs(np.diff(folded)).max() <= 1.5 * max(np.abs(np.diff(wave)).max() for wave in (whole, other))
    loudness = [np.log10(np.sqrt((wave.reshape(-1, 400) ** 2).mean(axis=1)) + 1e-4) for wave in (folded, whole)]
    assert np.corrcoef(*loudness)[0, 1] > 0.8


def test_another_seed_is_another_take(voice: Vocoder, mel: NDArray[np.float32]) -> None:
    takes = [voice.vocode(mel[:, :10], seed=seed) for seed in range(3)]
    assert all(not np.array_equal(a, b) for a, b in pairwise(takes))
