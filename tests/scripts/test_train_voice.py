"""The training recipe, on a few seconds of synthetic voiced sound and a network of a few thousand weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")
soundfile = pytest.importorskip("soundfile", reason="training reads recordings with soundfile")
pytest.importorskip("soxr", reason="training resamples with soxr")
pytest.importorskip("tqdm", reason="training shows its progress with tqdm")

import torch

from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.scripts import train_voice, voice_corpus
from wavernn_trt.scripts.train_voice import Recipe, TrainingModel, load, train
from wavernn_trt.scripts.voice_corpus import AUDIO, batches, prepare, read_folder, window_of

TINY = Recipe(
    conditioning_size=4,
    embedding_dim=4,
    rnn_size=16,
    fc_size=16,
    rows=4,
    frames=1,
    context=2,
    learning_rate=1e-2,
    variants=1,
    validate_every=10,
    max_updates=20,
)


def voiced(seconds: float, pitch: float, rate: int) -> np.ndarray:
    """Decaying harmonics of a gliding pitch, with pauses and a little noise."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 1.5 * time), 0, 1)
    return 0.2 * envelope * harmonics + 0.002 * np.random.default_rng(0).standard_normal(len(time))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "speech"
    folder.mkdir()
    for i, (suffix, rate) in enumerate((("flac", 22050), ("wav", 16000), ("flac", 22050))):
        soundfile.write(folder / f"clip{i}.{suffix}", voiced(1.2, 110 + 20 * i, rate), rate)
    return folder


def test_loss_falls(folder: Path, tmp_path: Path) -> None:
    result = train(read_folder(folder), tmp_path / "out", dataclasses.replace(TINY, max_updates=60))
    assert result["step"] == 60
    assert result["validation_before"] == pytest.approx(8, abs=0.3)
    assert result["validation"] < result["validation_before"] - 0.5


def test_the_checkpoint_is_a_univoc_checkpoint(folder: Path, tmp_path: Path) -> None:
    train(read_folder(folder), tmp_path / "out", dataclasses.replace(TINY, max_updates=2))
    checkpoint = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert set(checkpoint) == {"model", "step"}
    assert univoc_from_state(checkpoint["model"]).config.hidden_size == TINY.rnn_size
    assert "rnn_size: 16" in (tmp_path / "out" / "config.yaml").read_text()
    assert not list((tmp_path / "out").glob("*.partial"))


def test_the_configuration_of_the_default_sizes_is_univocs() -> None:
    assert train_voice.config_yaml(Recipe()) == (
        "preprocess: {sr: 16000, hop_length: 200, win_length: 800, n_fft: 2048, n_mels: 80, fmin: 50, "
        "mel_norm: slaney, preemph: 0.97, top_db: 80, ref_db: 20, mulaw: {bits: 8}}\n"
        "model: {n_mels: 80, conditioning_size: 64, embedding_dim: 64, rnn_size: 256, fc_size: 192, bits: 8, "
        "hop_length: 200, sr: 16000}\n"
        "waveform: {preemphasis: 0.85, peak: 0.7}\n"
    )


def test_resuming_goes_on_from_the_saved_step(folder: Path, tmp_path: Path) -> None:
    clips, out = read_folder(folder), tmp_path / "out"
    first = train(clips, out, dataclasses.replace(TINY, max_updates=10), keep_out=["clip0"])
    second = train(clips, out, dataclasses.replace(TINY, max_updates=20), resume=True)
    assert (first["step"], second["step"]) == (10, 20)
    assert second["validation_before"] == pytest.approx(first["validation"])
    saved = load(out / "training.pt")
    assert saved["updates"] == 20
    assert saved["kept_out"] == ["clip0"]
    with pytest.raises(train_voice.RecipeError, match="keeps out clip0"):
        train(clips, out, TINY, keep_out=["clip1"], resume=True)
    with pytest.raises(train_voice.RecipeError, match="budget is used up after 20 updates"):
        train(clips, out, dataclasses.replace(TINY, max_updates=20), resume=True)


def test_training_begins_with_the_weights_and_sizes_it_is_given(folder: Path, tmp_path: Path) -> None:
    clips = read_folder(folder)
    before = train(clips, tmp_path / "first", TINY)
    after = train(clips, tmp_path / "second", Recipe(max_updates=1, rows=2), init=tmp_path / "first" / "model.pt")
    assert after["step"] == before["step"] + 1
    assert load(tmp_path / "second" / "model.pt")["model"]["fc1.weight"].shape == (16, 16)


def test_kept_out_clips_are_not_trained_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: set[str] = set()

    def watched(originals, variants, *arguments):  # type: ignore[no-untyped-def]
        trained.update(recording.name for recording in originals + variants)
        return batches(originals, variants, *arguments)

    monkeypatch.setattr(train_voice, "batches", watched)
    clips = read_folder(folder)
    train(clips, tmp_path / "named", dataclasses.replace(TINY, max_updates=1), keep_out=["clip1"])
    assert trained == {"clip0", "clip2"}
    trained.clear()
    train(clips, tmp_path / "last", dataclasses.replace(TINY, max_updates=1))
    assert trained == {"clip0", "clip1"}


def test_a_frame_conditions_the_samples_around_its_centre() -> None:
    click = np.zeros(AUDIO.sample_rate)
    click[8000] = 1.0  # the centre of frame 40
    recording = prepare("click", click, AUDIO.sample_rate, 1.0, bits=8)
    loudest = int((recording.labels - recording.silence).abs().argmax())
    assert loudest == 8000 + AUDIO.delay
    assert loudest // AUDIO.hop_length == int(recording.mel.sum(dim=1).argmax()) == 40
    assert recording.labels[:8000].eq(128).all()


@pytest.mark.parametrize("start", [0, 1, 30, 77, 80])
def test_windows_line_up_at_both_ends_of_a_recording(start: int) -> None:
    recording = prepare("voiced", voiced(1.0, 120, AUDIO.sample_rate), AUDIO.sample_rate, 1.0, bits=8)
    assert recording.mel.shape == (81, 80)
    mel, window, previous, labels = window_of(recording, start, 1, 16)
    assert torch.equal(mel[window], recording.mel[start : start + 1])
    assert torch.equal(labels, recording.labels[200 * start : 200 * (start + 1)])
    assert torch.equal(previous[1:], labels[:-1])
    assert previous[0] == (recording.labels[200 * start - 1] if start else 128)


def test_rows_hand_their_state_on_until_their_recording_ends() -> None:
    recording = prepare("voiced", voiced(1.0, 120, AUDIO.sample_rate), AUDIO.sample_rate, 1.0, bits=8)
    stream = batches([recording], [], rows=2, frames=4, context=4, rng=torch.Generator().manual_seed(1))
    _, _, _, labels, going_on = next(stream)
    assert going_on.tolist() == [0, 0]
    restarts = 0
    for _ in range(40):
        last = labels[:, -1]
        _, _, previous, labels, going_on = next(stream)
        assert torch.equal(previous[:, 0][going_on == 1], last[going_on == 1])
        restarts += int((going_on == 0).sum())
    assert restarts >= 2


def test_carried_state_makes_pieces_equal_to_the_whole() -> None:
    torch.manual_seed(0)
    model = TrainingModel(TINY)
    mel, previous = torch.randn(1, 4, 80), torch.randint(256, (1, 800))
    whole, _ = model(mel, torch.arange(4)[None], previous, torch.zeros(1, 1, 16))
    first, state = model(mel, torch.tensor([[0, 1]]), previous[:, :400], torch.zeros(1, 1, 16))
    second, _ = model(mel, torch.tensor([[2, 3]]), previous[:, 400:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


def test_a_folder_without_audio_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no speech here")
    assert train_voice.main([str(tmp_path), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "found 0 FLAC or WAV files, expected at least 2 recordings" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep-out", "clip9"], "--keep-out clip9: no such clip; the folder has clip0, clip1, clip2"),
        (["--keep-out", "clip0", "clip1", "clip2"], "0 clips to train on and 3 kept out"),
        (["--init", "missing.pt"], "missing.pt: no such checkpoint"),
        (["--resume"], "training.pt: no such checkpoint"),
        (["--init", "speech/clip0.flac"], "clip0.flac: not a checkpoint that can be read"),
        (["--init", "narrow.pt"], "narrow.pt: expected the tensors of univoc's network with 80 mels"),
        (["--init", "foreign.pt"], "foreign.pt: expected the tensors of univoc's network"),
        (["--minutes", "0"], "minutes: found 0.0, expected a positive number"),
        (["--learning-rate", "nan"], "learning_rate: found nan"),
        (["--rows", "0"], "rows: found 0, expected a positive integer"),
        (["--rnn-size", "0"], "rnn_size: found 0"),
        (["--max-updates", "0"], "max_updates: found 0"),
        (["--variants", "-1"], "variants: found -1, expected an integer from 0 on"),
        (["--frames", "500"], "frames: found 500, expected at most 65; the shortest clip or variant has 97"),
    ],
)
def test_mistakes_are_named(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    narrow = TrainingModel(TINY).state_dict()
    narrow["rnn1.weight_ih_l0"] = narrow["rnn1.weight_ih_l0"][:, :20]
    torch.save({"model": narrow, "step": 1}, "narrow.pt")
    torch.save({"model": {"weight": torch.zeros(1)}, "step": 1}, "foreign.pt")
    assert train_voice.main([str(folder), str(tmp_path / "out"), "--variants", "0", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_clip_that_is_no_recording_is_refused(folder: Path) -> None:
    (folder / "text.wav").write_text("no speech here")
    with pytest.raises(voice_corpus.CorpusError, match=r"text\.wav: not a recording that can be read"):
        read_folder(folder)


def test_a_clip_too_short_is_refused(folder: Path) -> None:
    soundfile.write(folder / "click.wav", np.zeros(1600), 16000)
    with pytest.raises(voice_corpus.CorpusError, match=r"click\.wav: 0\.10 s, expected at least 1\.0 s"):
        read_folder(folder)
