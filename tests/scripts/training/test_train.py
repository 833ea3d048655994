"""Training, on a few seconds of synthetic voiced sound and a network of a few thousand weights."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")
soundfile = pytest.importorskip("soundfile", reason="training reads recordings with soundfile")
pytest.importorskip("soxr", reason="training resamples with soxr")
pytest.importorskip("tqdm", reason="training shows its progress with tqdm")

import torch

from wavernn_trt.export.checkpoints.checkpoint import read_checkpoint
from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.runtime.jobs.result import Stop
from wavernn_trt.runtime.vocoder import shipped_voice
from wavernn_trt.scripts.training import corpus as corpora
from wavernn_trt.scripts.training import train as train_module
from wavernn_trt.scripts.training.corpus import AUDIO, read_folder
from wavernn_trt.scripts.training.model import TrainingModel, config_yaml, load, load_weights
from wavernn_trt.scripts.training.recipe import RECIPES, Recipe, RecipeError, meanings
from wavernn_trt.scripts.training.samples import write_samples
from wavernn_trt.scripts.training.train import Training, train

TINY = Recipe(
    conditioning_size=4,
    embedding_dim=4,
    rnn_size=16,
    fc_size=16,
    rows=4,
    frames=1,
    context=2,
    learning_rate=1e-2,
    variant_minutes=0.04,
    variant_share=0.5,
    validate_every=10,
    samples_every=0,
    max_updates=20,
)
PIECE = 8
"""Frames of a validated piece."""


def voiced(seconds: float, pitch: float, rate: int) -> np.ndarray:
    """Decaying harmonics of a gliding pitch, with pauses and a little noise."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 2 * time))) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 1.5 * time), 0, 1)
    return 0.2 * envelope * harmonics + 0.002 * np.random.default_rng(0).standard_normal(len(time))


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validates in pieces of 0.1 s, and writes samples of 0.1 s, which is faster."""
    monkeypatch.setattr(train_module, "_VALIDATED", PIECE)
    monkeypatch.setattr(train_module, "write_samples", partial(write_samples, seconds=0.1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "speech"
    folder.mkdir()
    for i, (suffix, rate) in enumerate((("flac", 22050), ("wav", 16000), ("flac", 22050))):
        soundfile.write(folder / f"clip{i}.{suffix}", voiced(1.2, 110 + 20 * i, rate), rate)
    return folder


def test_the_loss_falls(folder: Path, tmp_path: Path) -> None:
    result = train([read_folder(folder)], tmp_path / "out", dataclasses.replace(TINY, max_updates=60))
    assert result["step"] == 60
    assert result["validation_before"] == pytest.approx(8, abs=0.3)
    assert result["validation"] < result["validation_before"] - 0.5


def test_the_checkpoint_is_a_univoc_checkpoint(folder: Path, tmp_path: Path) -> None:
    train([read_folder(folder)], tmp_path / "out", dataclasses.replace(TINY, max_updates=2))
    checkpoint = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert set(checkpoint) == {"model", "step"}
    assert univoc_from_state(checkpoint["model"]).config.hidden_size == TINY.rnn_size
    assert "rnn_size: 16" in (tmp_path / "out" / "config.yaml").read_text()
    assert not list((tmp_path / "out").glob("*.partial"))


def test_the_configuration_of_the_default_sizes_is_univoc_s() -> None:
    assert config_yaml(Recipe()) == (
        "preprocess: {sr: 16000, hop_length: 200, win_length: 800, n_fft: 2048, n_mels: 80, fmin: 50, "
        "mel_norm: slaney, pad_mode: constant, preemph: 0.97, top_db: 80, ref_db: 20, mulaw: {bits: 8}}\n"
        "model: {n_mels: 80, conditioning_size: 96, embedding_dim: 64, rnn_size: 384, fc_size: 256, bits: 8, "
        "hop_length: 200, sr: 16000}\n"
        "waveform: {preemphasis: 0.85, peak: 0.7}\n"
    )


def test_a_resumed_training_continues_from_the_saved_step(folder: Path, tmp_path: Path) -> None:
    clips, out = [read_folder(folder)], tmp_path / "out"
    first = train(clips, out, dataclasses.replace(TINY, max_updates=10), keep_out=["clip0"])
    second = train(clips, out, dataclasses.replace(TINY, max_updates=20), resume=True)
    assert (first["step"], second["step"]) == (10, 20)
    assert second["validation_before"] == pytest.approx(first["validation"])
    saved = load(out / "training.pt")
    assert saved["step"] == 20
    assert saved["kept_out"] == ["clip0"]
    assert saved["best"] == second["best"] <= first["best"]
    with pytest.raises(RecipeError, match="keeps out clip0"):
        train(clips, out, TINY, keep_out=["clip1"], resume=True)
    with pytest.raises(RecipeError, match="budget is used up after 20 updates"):
        train(clips, out, dataclasses.replace(TINY, max_updates=20), resume=True)


def test_training_starts_with_the_weights_and_sizes_of_init(folder: Path, tmp_path: Path) -> None:
    clips = [read_folder(folder)]
    before = train(clips, tmp_path / "first", TINY)
    narrow = dataclasses.replace(TINY, max_updates=1, rnn_size=8)
    after = train(clips, tmp_path / "second", narrow, init=tmp_path / "first" / "model.pt")
    assert after["validation_before"] == pytest.approx(before["validation"])
    assert load(tmp_path / "second" / "model.pt")["model"]["fc1.weight"].shape == (16, 16)


def test_training_can_start_with_an_exported_voice(tmp_path: Path) -> None:
    weights = load_weights(shipped_voice())
    TrainingModel(RECIPES["heart-lj"]).load_state_dict(weights)
    with pytest.raises(RecipeError, match=r"manifest\.json"):
        load_weights(tmp_path)


def test_kept_out_clips_are_not_trained_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[set[str]] = []

    class RecordedCorpus(corpora.Corpus):
        def __init__(self, recordings, device):  # type: ignore[no-untyped-def]
            used.append({recording.name for recording in recordings})
            super().__init__(recordings, device)

    monkeypatch.setattr(train_module, "Corpus", RecordedCorpus)
    clips = [read_folder(folder)]
    train(clips, tmp_path / "named", dataclasses.replace(TINY, max_updates=1), keep_out=["clip1"])
    assert used == [{"clip1"}, {"clip0", "clip2"}]
    used.clear()
    train(clips, tmp_path / "last", dataclasses.replace(TINY, max_updates=1))
    assert used == [{"clip2"}, {"clip0", "clip1"}]


def test_samples_and_their_picture_are_written_at_intervals(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="samples are drawn with matplotlib")
    recipe = dataclasses.replace(TINY, max_updates=5, validate_every=2, samples_every=2)
    result = train([read_folder(folder)], tmp_path / "out", recipe, keep_out=["clip0"])
    names = sorted(file.name for file in (tmp_path / "out" / "samples").iterdir())
    assert names == ["0000004-clip0.wav", "0000004.png", "0000005-clip0.wav", "0000005.png"]
    assert -1 <= result["correlation"] <= 1
    samples, rate = soundfile.read(tmp_path / "out" / "samples" / "0000005-clip0.wav")
    assert (len(samples), rate) == (8 * 200, 16000)
    assert np.abs(samples).max() > 0


def test_half_precision_halves_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    train([read_folder(folder)], tmp_path, dataclasses.replace(TINY, max_updates=1), float16=True)
    weights = load_weights(tmp_path / "model.pt")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert univoc_from_state(weights).config.hidden_size == TINY.rnn_size


def test_the_same_seed_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    clips, recipe = [read_folder(folder)], dataclasses.replace(TINY, max_updates=3)
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        train(clips, tmp_path / name, dataclasses.replace(recipe, seed=seed))
    first, again, other = (load_weights(tmp_path / name / "model.pt") for name in ("first", "again", "other"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_saved_model(folder: Path, tmp_path: Path) -> None:
    clips = [read_folder(folder)]
    train(clips, tmp_path, dataclasses.replace(TINY, max_updates=1))
    saved = load(tmp_path / "training.pt")
    saved["weights"]["fc1.weight"][0, 0] = float("nan")
    torch.save(saved, tmp_path / "training.pt")
    before = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(RecipeError, match="the loss is no longer finite"):
        train(clips, tmp_path, dataclasses.replace(TINY, max_updates=2), resume=True)
    assert (tmp_path / "model.pt").read_bytes() == before


def test_the_best_checkpoint_is_kept_beside_the_latest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([8.0, 5.0, 4.0, 6.0, 4.0, 4.5])  # before, and after each update
    monkeypatch.setattr(train_module, "validate", lambda *_: next(losses))
    recipe = dataclasses.replace(TINY, max_updates=3, validate_every=1)
    clips = [read_folder(folder)]
    train(clips, tmp_path, recipe)
    assert [load(tmp_path / name)["step"] for name in ("model.pt", "best.pt")] == [3, 2]
    train(clips, tmp_path, dataclasses.replace(recipe, max_updates=4), resume=True)
    assert [load(tmp_path / name)["step"] for name in ("model.pt", "best.pt")] == [4, 2]


def test_the_learning_rate_rises_and_then_falls_to_zero() -> None:
    recipe = Recipe(learning_rate=1.0, warm_up=0.1)
    rates = [train_module.learning_rate_at(done, recipe) for done in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert rates[0] == 0.0
    assert rates[1] < rates[2] > rates[3] > rates[4]
    assert rates[2] == pytest.approx(0.976, abs=1e-3)
    assert rates[4] == pytest.approx(0.0, abs=1e-12)


def test_every_option_of_the_recipe_has_a_help_text() -> None:
    assert list(meanings()) == [field.name for field in dataclasses.fields(Recipe)]
    assert meanings()["weight_decay"] == "Weight decay of AdamW."


def test_a_folder_without_audio_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no speech here")
    assert train_module.main([str(tmp_path), str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "found 0 recordings, expected at least 2 of speech" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep-out", "clip9"], "--keep-out clip9: no such clip; the folder has clip0, clip1, clip2"),
        (["--keep-out", "clip0", "clip1", "clip2"], "0 clips to train on and 3 kept out"),
        (["--init", "missing.pt"], "missing.pt: no such checkpoint"),
        (["--resume", "--widen"], "--widen: found no --init, expected the voice to widen"),
        (["--resume"], "training.pt: no such checkpoint"),
        (["--init", "speech/clip0.flac"], "clip0.flac: not a checkpoint that can be read"),
        (["--init", "narrow.pt"], "narrow.pt: expected the tensors of univoc's network with 80 mels"),
        (["--init", "foreign.pt"], "foreign.pt: expected the tensors of univoc's network"),
        (["--init", "damaged.pt"], "damaged.pt: its weights give no finite loss"),
        (["--context", "45"], "8 frames with 45 on each side do not fit: clip2 or its fastest copy has 97;"),
        (["--weight-decay", "-1"], "weight_decay: found -1.0, expected at least 0 and below 1"),
    ],
)
def test_unusable_options_exit_2_with_one_line(
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
    damaged = TrainingModel(TINY).state_dict()
    damaged["fc1.bias"][0] = float("nan")
    torch.save({"model": damaged, "step": 1}, "damaged.pt")
    assert (
        train_module.main([str(folder), str(tmp_path / "out"), "--variant-minutes", "0", "--context", "16", *options])
        == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"bits": 13},
        {"warm_up": 0.0},
        {"clip_norm": -1.0},
        {"learning_rate": math.nan},
        {"minutes": 0.0},
        {"ema_decay": math.nan},
        {"variant_share": 1.0},
        {"seed": 10**20},
        {"variant_minutes": -1.0},
        {"variant_minutes": math.nan},
        {"rows": 0},
        {"max_updates": 0},
    ],
)
def test_settings_out_of_their_range_are_refused(values: dict[str, Any]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(RecipeError, match=f"{name}: found {value}, expected"):
        dataclasses.replace(TINY, **values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init", "a.pt", "--resume"], "not allowed with argument"),
        (["--device", "tpu"], "found 'tpu', expected cpu or cuda"),
        (["--device", "cuda:99"], "found 'cuda:99', but "),
    ],
)
def test_wrong_usage_is_refused(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        train_module.main(["speech", "out", *options])
    assert message in capsys.readouterr().err


def test_a_checkpoint_without_training_state_cannot_be_resumed(folder: Path, tmp_path: Path) -> None:
    torch.save({"model": TrainingModel(TINY).state_dict(), "step": 1}, tmp_path / "training.pt")
    with pytest.raises(RecipeError, match=r"found no best, .* it cannot be resumed, but --init can use it"):
        train([read_folder(folder)], tmp_path, TINY, resume=True)


def test_without_matplotlib_the_training_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert train_module.main([str(folder), str(tmp_path / "out")]) == 2
    assert "pip install '.[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_interrupted_training_is_saved_and_can_be_resumed(folder: Path, tmp_path: Path) -> None:
    clips, stop = [read_folder(folder)], Stop()
    recipe = dataclasses.replace(TINY, max_updates=30, validate_every=100)

    class Stopping(Training):
        def update(self, *arguments: Any) -> torch.Tensor:
            loss = super().update(*arguments)
            if self.updates == 3:
                stop.request()
            return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "Training", Stopping)
        assert train(clips, tmp_path, recipe, stop=stop)["step"] == 3
    assert train(clips, tmp_path, dataclasses.replace(recipe, max_updates=5), resume=True)["step"] == 5
    # A training that is stopped before its first update makes that update.
    assert train(clips, tmp_path / "early", recipe, stop=stop)["step"] == 1
    assert load(tmp_path / "early" / "training.pt")["step"] == 1


def test_a_row_that_restarts_drops_a_state_that_overflowed(folder: Path) -> None:
    training = Training(TINY, torch.device("cpu"))
    clips = read_folder(folder)
    corpus = corpora.Corpus([corpora.prepare(name, *clips[name], 1.0, 8) for name in clips], training.device)
    windows = corpus.windows(torch.zeros(4, dtype=torch.long), torch.arange(4) * 9, TINY.frames, TINY.context)
    training._hidden[:] = torch.nan
    assert not torch.isfinite(training.update(windows, torch.ones(4), 0.0))
    training = Training(TINY, torch.device("cpu"))
    training._hidden[:] = torch.nan
    assert torch.isfinite(training.update(windows, torch.zeros(4), 0.0))


@torch.no_grad()
def test_validation_has_the_bits_of_the_exported_model(folder: Path) -> None:
    clips = read_folder(folder)
    torch.manual_seed(0)
    model = TrainingModel(TINY)
    recording = corpora.prepare("clip0", *clips["clip0"], 1.0, 8)
    assert len(recording.mel) == 97
    found = train_module.validate(model, corpora.Corpus([recording], torch.device("cpu")), TINY)
    exported = univoc_from_state(model.state_dict())
    bits = []
    wide = PIECE + 2 * TINY.context
    for start in range(0, 97 - PIECE + 1, PIECE):
        first = min(max(start - TINY.context, 0), 97 - wide)
        rows = exported.conditioner(recording.mel[None, first : first + wide].transpose(1, 2))[0]
        hidden = torch.zeros(1, 1, 16)
        previous = torch.tensor([int(recording.labels[200 * start - 1]) if start else recording.silence])
        for t in range(200 * PIECE):
            logits, hidden = exported.step(previous, hidden, rows[None, start - first + t // 200])
            previous = recording.labels[200 * start + t][None].long()
            bits.append(-torch.log_softmax(logits, dim=1)[0, previous] / np.log(2))
    assert found == pytest.approx(float(torch.stack(bits).mean()), rel=1e-4)


def test_unusable_folders_and_clips_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(corpora.CorpusError, match="nowhere: no such folder"):
        read_folder(tmp_path / "nowhere")
    soundfile.write(folder / "clip0.wav", voiced(1.2, 100, 16000), 16000)
    with pytest.raises(corpora.CorpusError, match=r"clip0\.wav: found another recording of that name"):
        read_folder(folder)
    soundfile.write(folder / "clip0.wav", np.zeros(20000), 16000)
    with pytest.raises(corpora.CorpusError, match=r"clip0\.wav: found silence"):
        read_folder(folder)
    (folder / "clip0.wav").unlink()
    (folder / "text.wav").write_text("no speech here")
    with pytest.raises(corpora.CorpusError, match=r"text\.wav: not a recording that can be read"):
        read_folder(folder)
    (folder / "text.wav").unlink()
    soundfile.write(folder / "click.wav", np.zeros(1600), 16000)
    with pytest.raises(corpora.CorpusError, match=r"click\.wav: 0\.10 s, expected at least 1\.0 s"):
        read_folder(folder)


def test_an_exported_voice_has_the_settings_that_it_was_trained_with(tmp_path: Path) -> None:
    torch.save({"model": TrainingModel(TINY).state_dict(), "step": 1}, tmp_path / "model.pt")
    (tmp_path / "config.yaml").write_text(config_yaml(TINY))
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert (checkpoint.audio, checkpoint.assumed) == (AUDIO, ())
    assert checkpoint.model.config.label_scale == "symmetric"


def test_folders_have_their_shares_and_are_validated_each(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("high0", "high1", "high2"):
        soundfile.write(other / f"{name}.wav", voiced(1.2, 300, 16000), 16000)
    clips = [read_folder(folder), read_folder(other)]
    out = tmp_path / "out"
    result = train(clips, out, dataclasses.replace(TINY, max_updates=2), shares=[3, 1], keep_out=["clip1", "high0"])
    assert result["validation"] == pytest.approx(0.75 * result["validation_1"] + 0.25 * result["validation_2"])
    assert result["validation_1"] != result["validation_2"]
    assert load(out / "training.pt")["kept_out"] == ["clip1", "high0"]
    with pytest.raises(RecipeError, match="--share: found 1 numbers, expected one for each of the 2 folders"):
        train(clips, out, TINY, shares=[1.0])


def test_a_widened_voice_begins_with_the_logits_of_the_narrow_one(folder: Path, tmp_path: Path) -> None:
    before = train([read_folder(folder)], tmp_path / "first", dataclasses.replace(TINY, max_updates=20))
    wide = dataclasses.replace(TINY, conditioning_size=7, embedding_dim=9, rnn_size=20, fc_size=18, max_updates=15)
    first = tmp_path / "first" / "model.pt"
    after = train([read_folder(folder)], tmp_path / "second", wide, init=first, widen=True)
    assert after["validation_before"] == pytest.approx(before["validation"], rel=1e-5)
    weights = load(tmp_path / "second" / "model.pt")["model"]
    assert weights["rnn2.weight_hh_l0"].shape == (60, 20)
    assert weights["fc1.weight"][:16, 16:].any()  # the added units are trained
    for changed, message in (({"rnn_size": 8}, "rnn_size: found 8, expected at least 16"), ({"bits": 9}, "expected 8")):
        with pytest.raises(RecipeError, match=message):
            train([read_folder(folder)], tmp_path / "no", dataclasses.replace(TINY, **changed), init=first, widen=True)
