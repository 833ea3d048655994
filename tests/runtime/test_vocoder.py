"""The methods of a vocoder, on a tiny random voice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import wavernn_trt
import wavernn_trt.runtime.mel as mel_checks
from wavernn_trt.export.model_directory import ModelDirectoryError
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, WholeConditioning
from wavernn_trt.runtime.decoding.chunk_loop import Stream, decode_streams
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import Chunk, State
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[..., NDArray[np.float32]]
few = settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])

HOP = 40


@pytest.mark.parametrize("frames", [1, 8, 9, 23])
def test_the_waveform_has_all_steps_of_the_mel(tiny_vocoder: Vocoder, tiny_mel: MakeMel, frames: int) -> None:
    waveform = tiny_vocoder.vocode(tiny_mel(frames))
    assert waveform.dtype == np.float32
    assert waveform.shape == (frames * HOP,)
    assert np.isfinite(waveform).all()
    assert waveform.std() > 0.01


def test_the_seed_decides_the_waveform(tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    mel = tiny_mel(6)
    assert np.array_equal(tiny_vocoder.vocode(mel), tiny_vocoder.vocode(mel, seed=0))
    assert not np.array_equal(tiny_vocoder.vocode(mel), tiny_vocoder.vocode(mel, seed=1))
    assert np.array_equal(tiny_vocoder.vocode(mel, seed=2**64 - 1), tiny_vocoder.vocode(mel, seed=np.uint64(2**64 - 1)))


@few
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), slots=st.sampled_from([1, 3]))
def test_a_batch_is_bit_for_bit_each_alone(
    lengths: list[int], slots: int, tiny_vocoder: Vocoder, tiny_vocoder_of_three: Vocoder, tiny_mel: MakeMel
) -> None:
    vocoder = {1: tiny_vocoder, 3: tiny_vocoder_of_three}[slots]
    mels = [tiny_mel(length, i) for i, length in enumerate(lengths)]
    seeds = list(range(len(mels)))
    for waveform, mel, seed in zip(vocoder.vocode_batch(mels, seeds=seeds), mels, seeds, strict=True):
        assert np.array_equal(waveform, vocoder.vocode(mel, seed=seed))
    assert np.array_equal(vocoder.vocode_batch(mels)[-1], vocoder.vocode(mels[-1]))


@few
@given(frames=st.integers(1, 20), size=st.one_of(st.none(), st.integers(1, 1000)))
def test_a_stream_joined_is_the_waveform(
    frames: int, size: int | None, tiny_vocoder: Vocoder, tiny_mel: MakeMel
) -> None:
    mel = tiny_mel(frames)
    pieces = list(tiny_vocoder.stream(mel, seed=5, frame=size))
    assert np.array_equal(np.concatenate(pieces), tiny_vocoder.vocode(mel, seed=5))
    assert {len(piece) for piece in pieces[:-1]} <= {size or 320}
    assert 0 < len(pieces[-1]) <= (size or 320)


@few
@given(frames=st.integers(1, 12), steps=st.integers(1, 700))
def test_the_chunk_s_length_changes_nothing(frames: int, steps: int, tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    mel = tiny_mel(frames)
    config = tiny_vocoder.config
    windows = ConditioningWindows(config.model, config.audio, steps)
    conditioning = WholeConditioning(windows, tiny_vocoder.executor.condition(mel))
    stream = Stream(conditioning, SeededUniforms(config.model, 0), 0, frames * HOP)
    pieces = list(decode_streams(tiny_vocoder.executor, windows, [stream], 1))
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces]), tiny_vocoder.labels(mel))
    assert [piece.start for piece in pieces] == list(range(0, frames * HOP, steps))
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_stream_is_decoded_ahead_only_as_far_as_its_buffer_allows(
    tiny_vocoder: Vocoder, tiny_mel: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = count_chunks(tiny_vocoder, monkeypatch)
    with tiny_vocoder.stream(tiny_mel(60), seconds=0.04) as stream:  # 1024 samples, the next power of two
        assert len(next(stream)) == 320
        assert len(chunks) <= 4


def count_chunks(vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of streams of each chunk decoded from now on."""
    chunks: list[int] = []
    decode = vocoder.executor.decode

    def counted(chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        chunks.append(len(chunk.uniforms))
        return decode(chunk, state)

    monkeypatch.setattr(vocoder.executor, "decode", counted)
    return chunks


def test_the_mels_of_a_batch_are_checked_once_and_before_the_work_begins(
    tiny_vocoder: Vocoder, tiny_mel: MakeMel, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[NDArray[Any]] = []
    check = mel_checks.checked_array

    def counted(mel: Any, audio: Any) -> NDArray[Any]:
        checked.append(np.asarray(mel))
        return check(mel, audio)

    monkeypatch.setattr(mel_checks, "checked_array", counted)
    chunks = count_chunks(tiny_vocoder, monkeypatch)
    mels = [tiny_mel(2, seed) for seed in range(3)]
    tiny_vocoder.vocode_batch(mels)
    assert [next(i for i, mel in enumerate(mels) if mel is one) for one in checked] == [0, 1, 2]
    begun = len(chunks)
    with pytest.raises(VocoderError, match="transposed"):
        tiny_vocoder.vocode_batch([tiny_mel(2), tiny_mel(2).T])
    assert len(chunks) == begun


def test_requests_are_taken_from_an_iterator_only_when_there_is_room(tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    taken = 0

    def utterances() -> Iterator[Request]:
        nonlocal taken
        for _ in range(4):
            taken += 1
            yield Request(tiny_mel(8))

    seen = [(number, taken) for number, _ in tiny_vocoder.vocode_many(utterances())]
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]  # one is decoded and one is in the queue


def test_given_random_numbers_replace_the_seed(tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    mel = tiny_mel(9)
    uniforms = SeededUniforms(tiny_vocoder.config.model, 3).draw(9 * HOP + 5)
    expected = tiny_vocoder.vocode(mel, seed=3)
    for shaped in (uniforms, uniforms[:, 0], uniforms[:, 0].tolist()):
        assert np.array_equal(tiny_vocoder.vocode(mel, uniforms=shaped), expected)
    assert np.array_equal(tiny_vocoder.vocode_batch([mel, mel], uniforms=[uniforms, uniforms])[1], expected)
    assert np.array_equal(np.concatenate(list(tiny_vocoder.stream(mel, uniforms=uniforms))), expected)
    with pytest.raises(VocoderError, match=f"found {9 * HOP - 1} steps, expected at least {9 * HOP}"):
        tiny_vocoder.vocode(mel, uniforms=uniforms[: 9 * HOP - 1])
    with pytest.raises(VocoderError, match="together with fold"):
        tiny_vocoder.vocode(mel, uniforms=uniforms, fold=100)


def test_labels_decode_to_the_waveform(tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    mel = tiny_mel(9)
    labels = tiny_vocoder.labels(mel, seed=4)
    assert labels.dtype == np.int32
    assert np.array_equal(tiny_vocoder.loaded.coding.waveform(labels), tiny_vocoder.vocode(mel, seed=4))


def test_teacher_forcing_with_drawn_labels_gives_the_logits_that_they_were_drawn_from(
    tiny_vocoder: Vocoder, tiny_mel: MakeMel
) -> None:
    mel = tiny_mel(17)
    labels = tiny_vocoder.labels(mel, seed=1)
    logits = tiny_vocoder.teacher_forced(mel, labels)
    assert logits.shape == (17 * HOP, 64)
    assert logits.dtype == np.float32
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    uniforms = SeededUniforms(tiny_vocoder.config.model, 1).draw(17 * HOP)
    assert (np.argmax(cumulative > uniforms, axis=1) == labels).mean() > 0.995
    for count in (0, 1, 319, 321):
        assert np.array_equal(tiny_vocoder.teacher_forced(mel, labels[:count]), logits[:count])
    with pytest.raises(VocoderError, match=f"found {17 * HOP + 1}, expected .*at most the mel's {17 * HOP}"):
        tiny_vocoder.teacher_forced(mel, np.append(labels, 0))


def spectrum(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Decibels of the mean magnitude in frames of 250 samples."""
    frames = waveform[: len(waveform) // 250 * 250].reshape(-1, 250) * np.hanning(250)
    return np.asarray(20 * np.log10(np.abs(np.fft.rfft(frames)).mean(axis=0)))


def test_folds_sound_like_the_whole(tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    mel = np.repeat(tiny_mel(6), 25, axis=1)
    whole, other = tiny_vocoder.vocode(mel), tiny_vocoder.vocode(mel, seed=1)
    folded = tiny_vocoder.vocode(mel, fold=1000, overlap=200)
    assert folded.shape == whole.shape
    # The measure is the difference to the same utterance with another seed.
    assert np.abs(spectrum(folded) - spectrum(whole)).mean() < 1.2 * np.abs(spectrum(other) - spectrum(whole)).mean()
    assert folded.std() == pytest.approx(whole.std(), rel=0.1)
    # The crossfades are as loud as the same places of the whole, without clicks.
    places = np.concatenate([np.arange(edge, edge + 200) for edge in range(1000, 6000, 1000)])
    assert folded[places].std() == pytest.approx(whole[places].std(), rel=0.25)
    assert np.abs(np.diff(folded))[places].max() <= np.abs(np.diff(whole)).max() * 1.2


def test_an_utterance_that_fits_in_a_fold_has_the_waveform_of_the_whole(
    tiny_vocoder: Vocoder, tiny_mel: MakeMel
) -> None:
    mel = tiny_mel(25)
    assert np.array_equal(tiny_vocoder.vocode(mel, fold=1000, overlap=500), tiny_vocoder.vocode(mel))


# Each fold takes at least a chunk: short folds are slow.
@pytest.mark.parametrize(("fold", "frames"), [(1, 1), (2, 3), (77, 3), (77, 26), (1000, 51)])
def test_folds_of_any_length_cover_the_utterance(
    tiny_vocoder: Vocoder, tiny_mel: MakeMel, frames: int, fold: int
) -> None:
    waveform = tiny_vocoder.vocode(tiny_mel(frames), fold=fold)
    assert waveform.shape == (frames * HOP,)
    assert np.isfinite(waveform).all()


def test_the_first_fold_has_the_samples_of_the_whole_until_its_crossfade(
    tiny_vocoder: Vocoder, tiny_mel: MakeMel
) -> None:
    mel = tiny_mel(26)
    whole, folded = tiny_vocoder.vocode(mel), tiny_vocoder.vocode(mel, fold=26 * HOP // 2, overlap=100)
    assert np.array_equal(folded[: 13 * HOP], whole[: 13 * HOP])
    assert not np.array_equal(folded, whole)


def test_a_batch_of_folded_utterances_is_bit_for_bit_each_alone(
    tiny_vocoder_of_three: Vocoder, tiny_mel: MakeMel
) -> None:
    mels = [tiny_mel(12, 1), tiny_mel(3, 2), tiny_mel(21, 3)]
    batch = tiny_vocoder_of_three.vocode_batch(mels, fold=300)
    for waveform, mel in zip(batch, mels, strict=True):
        assert np.array_equal(waveform, tiny_vocoder_of_three.vocode(mel, fold=300))


def test_de_emphasis_continues_through_streams_and_folds(
    tiny_vocoder: Vocoder, make_vocoder: Callable[..., Vocoder], tiny_mel: MakeMel
) -> None:
    audio = dataclasses.replace(tiny_vocoder.config.audio, waveform_preemphasis=0.85)
    vocoder = make_vocoder(audio=audio)
    mel = tiny_mel(40)
    whole = vocoder.vocode(mel)
    assert np.array_equal(np.concatenate(list(vocoder.stream(mel, frame=77))), whole)
    folded = vocoder.vocode(mel, fold=500, overlap=100)
    # A filter that restarted in every fold would leave steps where they meet.
    emphasised = folded[1:] - 0.85 * folded[:-1]
    assert np.abs(emphasised).max() <= np.sqrt(2) + 1e-6


def test_a_recording_becomes_a_mel_of_the_model(tiny_vocoder: Vocoder) -> None:
    recording = 0.1 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    mel = tiny_vocoder.mel(recording, 44100)
    assert mel.shape == (20, 1 + 16000 // HOP)
    assert tiny_vocoder.vocode(mel[:, :10]).shape == (10 * HOP,)


def test_recordings_are_scaled_to_the_peak_of_the_model(
    tiny_vocoder: Vocoder, make_vocoder: Callable[..., Vocoder]
) -> None:
    audio = dataclasses.replace(tiny_vocoder.config.audio, peak=0.7)
    vocoder = make_vocoder(audio=audio)
    recording = np.random.default_rng(0).uniform(-1, 1, 1600).astype(np.float32)
    recording[7] = 1
    np.testing.assert_allclose(vocoder.mel(recording * 0.1, 16000), tiny_vocoder.mel(recording * 0.7, 16000), atol=1e-5)
    for peak in (0, 1e-45, 1e-9, 9e-5):  # silence stays silence
        quiet = recording * np.float32(peak)
        assert np.array_equal(vocoder.mel(quiet, 16000), tiny_vocoder.mel(quiet, 16000))


@pytest.mark.parametrize(
    ("waveform", "rate", "message"),
    [
        (np.zeros(0), 16000, r"found float64 \(0,\)"),
        (np.zeros((10, 2)), 16000, r"found float64 \(10, 2\).*mono"),
        (np.zeros(10, np.int16), 16000, "found int16"),
        (np.array([0.0, np.nan]), 16000, "NaN"),
        (np.zeros(10), 0, "sample rate: found 0"),
        (np.zeros(10), "16000", "sample rate: found '16000'"),
    ],
)
def test_unusable_recordings_are_refused(tiny_vocoder: Vocoder, waveform: Any, rate: Any, message: str) -> None:
    with pytest.raises(VocoderError, match=message):
        tiny_vocoder.mel(waveform, rate)


def test_mistakes_are_raised_before_the_first_piece(tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    with pytest.raises(VocoderError, match="transposed"):
        tiny_vocoder.stream(tiny_mel(3).T)
    with pytest.raises(VocoderError, match="frame: found 0"):
        tiny_vocoder.stream(tiny_mel(3), frame=0)
    with pytest.raises(VocoderError, match="seeds: found 1, expected one for each of the 2 mels"):
        tiny_vocoder.vocode_batch([tiny_mel(1)] * 2, seeds=[1])
    assert tiny_vocoder.vocode_batch([]) == []


def test_the_state_carries_earlier_steps(tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    starts = [tiny_vocoder.labels(np.concatenate([tiny_mel(8, i), tiny_mel(1, 9)], axis=1))[-HOP:] for i in range(3)]
    assert all(not np.array_equal(a, b) for a, b in pairwise(starts))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "cudnn"}, "found 'cudnn', expected one of auto, native, onnxruntime, torch, tensorrt"),
        ({"threads": 0}, "threads: found 0"),
        ({"batch": 0}, "batch: found 0, expected a positive integer"),
        ({"batch": True, "backend": "torch"}, "batch: found True"),
    ],
)
def test_invalid_options_of_loading_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wavernn_trt.load(tmp_path, **arguments)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_that_is_no_model_directory_is_refused(tmp_path: Path, kind: type) -> None:
    with pytest.raises(ModelDirectoryError, match="wavernn-trt export CHECKPOINT -o DIR"):
        Vocoder.load(kind(tmp_path))
    with pytest.raises(ModelDirectoryError, match="not there"):
        Vocoder.load(kind(tmp_path / "nowhere"))


def test_a_missing_backend_names_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(VocoderError, match=r"PyTorch.*pip install '\.\[export\]'"):
        wavernn_trt.load(tmp_path, "torch")
