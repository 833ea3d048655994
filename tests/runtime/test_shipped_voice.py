"""The shipped voice on ONNX Runtime: equal bits in batches and streams, and agreement with the reference."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
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


def test_loading_found_less_than_two_seconds(voice: Vocoder) -> None:
    def load() -> float:
        started = time.perf_counter()
        wavernn_trt.load()
        return time.perf_counter() - started

    assert min(load() for _ in range(3)) < 2


def test_the_reference_decodes_the_requested_number_of_streams_together() -> None:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    pytest.importorskip("safetensors", reason="the reference reads the voice's weights with safetensors")
    for batch, streams in ((None, 1), (3, 3)):
        vocoder = wavernn_trt.load(backend="torch", batch=batch)
        assert (vocoder.batch, vocoder.executor.slots) == (streams, streams)


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_streams_and_orders_have_equal_bits(voice: Vocoder, mel: NDArray[np.float32], threads: int) -> None:
    vocoder = wavernn_trt.load(batch=5, threads=threads)
    mels = [mel[:, :count] for count in (1, 3, 20, 7, 11, 9, 5)]
    alone = [vocoder.vocode(one, seed=i) for i, one in enumerate(mels)]
    together = vocoder.vocode_batch(mels, seeds=range(7))
    backwards = vocoder.vocode_batch(mels[::-1], seeds=range(6, -1, -1))[::-1]
    streamed = [np.concatenate(list(vocoder.stream(one, seed=i, frame=100))) for i, one in enumerate(mels)]
    for first, *others in zip(alone, together, backwards, streamed, strict=True):
        assert all(np.array_equal(first, other) for other in others)


def test_it_agrees_with_the_reference(mel: NDArray[np.float32]) -> None:
    pytest.importorskip("torch", reason="the reference executor needs PyTorch")
    pytest.importorskip("safetensors", reason="the reference reads the voice's weights with safetensors")
    voice, reference = wavernn_trt.load(precision="fp32"), wavernn_trt.load(backend="torch")
    short = mel[:, 10:30]
    labels = voice.labels(short, seed=1)
    logits = voice.teacher_forced(short, labels)
    np.testing.assert_allclose(logits, reference.teacher_forced(short, labels), atol=1e-3)
    agreeing = (reference.labels(short, seed=1) == labels).cumprod().sum()
    assert agreeing > 500  # rounding may separate them later


def test_another_seed_gives_another_waveform(voice: Vocoder, mel: NDArray[np.float32]) -> None:
    found = [voice.vocode(mel[:, :10], seed=seed) for seed in range(3)]
    assert all(not np.array_equal(a, b) for a, b in pairwise(found))
