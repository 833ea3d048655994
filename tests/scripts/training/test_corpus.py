"""Batches of recordings: labels line up with the frames that condition them, rows continue a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("soxr", reason="training resamples with soxr")

from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.scripts.training.corpus import (
    AUDIO,
    Corpus,
    CorpusError,
    Recording,
    prepare,
    read_folder,
    sampling_weights,
    split,
    walk,
)
from wavernn_trt.scripts.training.model import TrainingModel
from wavernn_trt.scripts.training.recipe import Recipe
from wavernn_trt.scripts.training.training_data import altered_copies

CPU = torch.device("cpu")
FRAMES = (81, 40, 60)


def numbered(name: str, frames: int, first: int) -> Recording:
    """A recording whose labels and mels have their positions as values."""
    labels = torch.arange(frames * AUDIO.hop_length) % 100 + first
    mel = (torch.arange(frames, dtype=torch.float32) + 1000 * first)[:, None].expand(frames, AUDIO.n_mels)
    return Recording(name, labels, mel, 7)


@pytest.fixture
def recordings() -> list[Recording]:
    return [numbered(f"clip{i}", frames, 100 * i) for i, frames in enumerate(FRAMES)]


def test_a_frame_conditions_the_samples_around_its_centre() -> None:
    click = np.zeros(AUDIO.sample_rate)
    click[8000] = 1.0  # the centre of frame 40
    recording = prepare("click", click, AUDIO.sample_rate, 1.0, bits=8)
    loudest = int((recording.labels - recording.silence).abs().argmax())
    assert loudest == 8000 + AUDIO.delay
    assert loudest // AUDIO.hop_length == int(recording.mel.sum(dim=1).argmax()) == 40
    assert recording.labels[:8000].eq(128).all()


@pytest.mark.parametrize("frames", [1, 3])
def test_mels_and_labels_of_windows_line_up_everywhere_in_a_recording(recordings: list[Recording], frames: int) -> None:
    corpus, context, hop = Corpus(recordings, CPU), 16, AUDIO.hop_length
    which, start = corpus.pieces(1)
    fits = start <= corpus.frames[which] - frames
    which, start = which[fits], start[fits]
    windows = corpus.windows(which, start, frames, context)
    assert windows.mel.shape == (len(which), frames + 2 * context, AUDIO.n_mels)
    assert windows.labels.shape == (frames * hop, len(which))
    assert windows.labels.dtype == torch.int64
    for row, (i, t) in enumerate(zip(which.tolist(), start.tolist(), strict=True)):
        recording = recordings[i]
        assert torch.equal(windows.mel[row, windows.frames[row]], recording.mel[t : t + frames])
        assert torch.equal(windows.mel[row].diff(dim=0), torch.ones(frames + 2 * context - 1, AUDIO.n_mels))
        assert torch.equal(windows.labels[:, row], recording.labels[hop * t : hop * (t + frames)])
        assert torch.equal(windows.previous[1:, row], windows.labels[:-1, row])
        assert windows.previous[0, row] == (recording.labels[hop * t - 1] if t else recording.silence)


def test_a_context_longer_than_the_window_is_complete(recordings: list[Recording]) -> None:
    windows = Corpus(recordings[:1], CPU).windows(torch.tensor([0]), torch.tensor([40]), 1, 40)
    assert torch.equal(windows.mel[0], recordings[0].mel)


def test_a_window_longer_than_a_recording_is_refused(recordings: list[Recording]) -> None:
    with pytest.raises(CorpusError, match="windows of 9 frames and 16 on each side: a recording has 40"):
        Corpus(recordings, CPU).windows(torch.tensor([0]), torch.tensor([0]), 9, 16)


def test_labels_and_mels_are_those_of_the_runtime() -> None:
    rng = np.random.default_rng(0)
    signal = 0.2 * rng.standard_normal(16000)
    recording = prepare("noise", signal, AUDIO.sample_rate, 1.0, bits=8)
    waveform = signal * AUDIO.peak / np.abs(signal).max()
    model = univoc_from_state(TrainingModel(Recipe()).state_dict(), label_scale="symmetric").config
    late = np.concatenate([np.zeros(AUDIO.delay), waveform])[: len(recording.labels)]
    expected = SampleCoding(model, AUDIO).samples(late)
    assert np.array_equal(recording.labels.numpy()[: len(expected)], expected)
    mel = mel_spectrogram(waveform.astype(np.float32), AUDIO)
    np.testing.assert_allclose(recording.mel.numpy().T, mel, atol=1e-5)


def test_pieces_cover_every_recording_in_order(recordings: list[Recording]) -> None:
    which, start = Corpus(recordings, CPU).pieces(25)
    assert which.tolist() == [0, 0, 0, 1, 2, 2]
    assert start.tolist() == [0, 25, 50, 0, 0, 25]


def test_rows_continue_a_recording_to_its_end(recordings: list[Recording]) -> None:
    corpus, frames = Corpus(recordings, CPU), 4
    weights = sampling_weights(corpus, [(3, 1.0)])
    batches = walk(corpus, weights, rows=5, frames=frames, context=4, rng=torch.Generator().manual_seed(1))
    windows, continued = next(batches)
    assert continued.tolist() == [0.0] * 5
    restarts = 0
    for _ in range(60):
        last = windows.labels[-1]
        frame = windows.mel[torch.arange(5), windows.frames[:, -1], 0]
        windows, continued = next(batches)
        same = continued == 1
        assert torch.equal(windows.previous[0][same], last[same])
        assert torch.equal(windows.mel[torch.arange(5), windows.frames[:, 0], 0][same], frame[same] + 1)
        ends = torch.tensor([FRAMES[int(f) // 100_000] - frames for f in frame])  # no further window fits behind these
        assert (frame[~same] % 100_000 >= ends[~same]).all()
        restarts += int((~same).sum())
    assert restarts >= 5


def test_groups_have_their_share_and_long_recordings_a_larger_one(recordings: list[Recording]) -> None:
    weights = sampling_weights(Corpus(recordings, CPU), [(2, 0.75), (1, 0.25)])
    assert weights[:2].sum().item() == pytest.approx(0.75)
    assert weights[2].item() == pytest.approx(0.25)
    assert (weights[0] / weights[1]).item() == pytest.approx(81 / 40)


def test_the_last_eighth_of_each_folder_or_the_named_clips_are_kept_out() -> None:
    nothing = np.zeros(0, np.float32), 16000
    folders = [dict.fromkeys("abc", nothing), dict.fromkeys("defghijkl", nothing)]
    assert split(folders, None) == ([["a", "b"], list("defghij")], [["c"], ["k", "l"]])
    assert split(folders, ["l", "a"]) == ([["b", "c"], list("defghijk")], [["a"], ["l"]])
    with pytest.raises(CorpusError, match="d, e, f, g, h, i, j, k, l: 9 clips to train on and 0 kept out"):
        split(folders, ["a"])
    with pytest.raises(CorpusError, match="b: found in two folders"):
        split([folders[0], {"b": nothing, "x": nothing}], None)


def test_copies_are_made_until_they_have_their_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = {name: (rng.standard_normal(16000).astype(np.float32), 16000) for name in "abc"}
    copies = altered_copies(clips, ["a", "b"], 5.5 / 60, 8, torch.Generator().manual_seed(0))
    names = [copy.name for copy in copies]
    seconds = sum(len(copy.mel) for copy in copies) / 80
    assert 5.5 <= seconds < 5.5 + 1.2
    assert {*names} == {"a", "b"}
    assert abs(names.count("a") - names.count("b")) <= 1
    assert len({len(copy.mel) for copy in copies}) > 1  # of different speeds
    assert altered_copies(clips, ["a"], 0.0, 8, torch.Generator()) == []


def test_recordings_of_every_format_are_read_and_other_files_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 24000)
    for name in ("a.wav", "b.mp3", "c.aiff"):
        soundfile.write(tmp_path / name, noise, 16000)
    (tmp_path / "d.m4a").touch()
    assert list(read_folder(tmp_path)) == ["a", "b", "c"]
    assert "left out 1 file that is no recording: .m4a 1" in caplog.text
    soundfile.write(tmp_path / "a.flac", noise, 16000)
    with pytest.raises(CorpusError, match="another recording of that name with another suffix"):
        read_folder(tmp_path)
