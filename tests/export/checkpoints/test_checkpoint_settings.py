"""Settings that `read_checkpoint` takes from configuration files and overrides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")

from wavernn_trt.export.checkpoints.checkpoint import CheckpointError, read_checkpoint
from wavernn_trt.export.config import AudioConfig

COQUI_AUDIO = {
    "fft_size": 64,
    "win_length": 24,
    "hop_length": 6,
    "frame_shift_ms": None,
    "stft_pad_mode": "reflect",
    "sample_rate": 8000,
    "preemphasis": 0.98,
    "ref_level_db": 15,
    "log_func": "np.log10",
    "do_sound_norm": False,
    "num_mels": 6,
    "mel_fmin": 50,
    "mel_fmax": 3800,
    "spec_gain": 20,
    "signal_norm": True,
    "min_level_db": -90,
    "symmetric_norm": True,
    "max_norm": 4.0,
    "clip_norm": True,
    "stats_path": None,
}
UNIVOC_YAML = """
preprocess: {sr: 16000, hop_length: 50, win_length: 200, n_fft: 512, n_mels: 6, fmin: 40, preemph: 0.9, top_db: 70,
  ref_db: 10, mulaw: {bits: 4}}
model: {n_mels: "${preprocess.n_mels}", conditioning_size: 3, embedding_dim: 4, rnn_size: 8, fc_size: 5,
  bits: "${preprocess.mulaw.bits}", hop_length: "${preprocess.hop_length}", sr: "${preprocess.sr}"}
"""


def _beside(checkpoint: Path, name: str, values: object) -> None:
    text = values if isinstance(values, str) else json.dumps(values)
    (checkpoint.parent / name).write_text(text)


def test_usual_values_are_assumed_and_listed(fatchord: Path) -> None:
    checkpoint = read_checkpoint(fatchord)
    assert checkpoint.audio == AudioConfig(22050, 6, 1100, 2048, 6, fmin=40.0, pad_mode="reflect")
    assert checkpoint.model.config.mu_law
    names = [line.split(" = ")[0] for line in checkpoint.assumed]
    assert names == ["sample_rate", "win_length", "n_fft", "fmin", "min_level_db", "mu_law"]
    assert checkpoint.assumed[0] == ("sample_rate = 22050: usual in fatchord; no settings file was found beside it")


def test_nothing_is_assumed_where_everything_is_given(fatchord: Path) -> None:
    settings = {"sample_rate": 8000, "win_length": 24, "n_fft": 64, "fmin": 10, "min_level_db": -90, "mu_law": False}
    checkpoint = read_checkpoint(fatchord, **settings)
    assert checkpoint.assumed == ()
    assert checkpoint.audio == AudioConfig(8000, 6, 24, 64, 6, fmin=10.0, pad_mode="reflect", min_level_db=-90.0)
    assert not checkpoint.model.config.mu_law


def test_fatchord_s_hparams(fatchord: Path) -> None:
    _beside(
        fatchord, "hparams.json", {"sample_rate": 8000, "voc_mode": "RAW", "bits": 4, "mu_law": False, "hop_length": 6}
    )
    checkpoint = read_checkpoint(fatchord)
    assert (checkpoint.audio.sample_rate, checkpoint.model.config.mu_law) == (8000, False)
    assert checkpoint.assumed[0] == ("win_length = 1100: usual in fatchord; hparams.json does not state it")
    assert read_checkpoint(fatchord, sample_rate=11025).audio.sample_rate == 11025


def test_coqui_s_config(coqui: Path) -> None:
    _beside(coqui, "config.json", {"audio": COQUI_AUDIO, "model_args": {"mode": 4, "mulaw": True, "pad": 2}})
    checkpoint = read_checkpoint(coqui)
    assert checkpoint.assumed == ()
    assert checkpoint.model.config.mu_law
    assert checkpoint.audio == AudioConfig(
        sample_rate=8000,
        hop_length=6,
        win_length=24,
        n_fft=64,
        n_mels=6,
        fmin=50.0,
        fmax=3800.0,
        pad_mode="reflect",
        preemphasis=0.98,
        reference_db=15.0,
        floor=1e-8,
        min_level_db=-90.0,
        mel_range=(-4.0, 4.0),
    )


def test_coqui_s_early_configs_hold_comments(coqui: Path) -> None:
    text = (
        '{"audio": {"sample_rate": 8000, // Hz\n "stats_path": "http://a//b"}, // "x": 1\n "mode": 4, "mulaw": false}'
    )
    _beside(coqui, "config.json", text)
    checkpoint = read_checkpoint(coqui)
    assert checkpoint.audio.sample_rate == 8000
    assert any("'http://a//b'" in note for note in checkpoint.notes)
    assert not checkpoint.model.config.mu_law


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"stats_path": "scale_stats.npy"}, "mel normalised by stored statistics cannot be expressed"),
        ({"do_amp_to_db_mel": False}, "a mel that is not in decibels cannot be expressed"),
        ({"do_rms_norm": True}, "recordings scaled to one RMS level cannot be expressed"),
    ],
)
def test_settings_that_cannot_be_expressed_are_noted(change: dict[str, Any], note: str, coqui: Path) -> None:
    _beside(coqui, "config.json", {"audio": COQUI_AUDIO | change, "model_args": {"mode": 4, "mulaw": True}})
    assert any(note in line for line in read_checkpoint(coqui).notes)


def test_univoc_s_config_with_references(univoc: Path) -> None:
    pytest.importorskip("yaml", reason="univoc's configuration is YAML")
    _beside(univoc, "config.yaml", UNIVOC_YAML)
    checkpoint = read_checkpoint(univoc)
    assert checkpoint.assumed == ()
    assert checkpoint.audio == AudioConfig(
        sample_rate=16000,
        hop_length=50,
        win_length=200,
        n_fft=512,
        n_mels=6,
        fmin=40.0,
        mel_norm="sum",
        pad_mode="reflect",
        preemphasis=0.9,
        reference_db=10.0,
        min_level_db=-70.0,
        mel_range=(-1.0, 0.0),
        clip_high=False,
        delay=100,
    )


def test_training_on_a_pre_emphasised_waveform(univoc: Path) -> None:
    pytest.importorskip("yaml", reason="univoc's configuration is YAML")
    _beside(
        univoc, "config.yaml", UNIVOC_YAML + "waveform: {preemphasis: 0.86, peak: 0.95}\nsampling: {temperature: 0.8}"
    )
    checkpoint = read_checkpoint(univoc)
    assert (checkpoint.audio.waveform_preemphasis, checkpoint.audio.peak, checkpoint.audio.delay) == (0.86, 0.95, 25)
    assert checkpoint.model.config.temperature == 0.8
    overridden = read_checkpoint(univoc, temperature=1.0, peak=None, delay=3)
    assert (overridden.model.config.temperature, overridden.audio.peak, overridden.audio.delay) == (1.0, None, 3)


def test_the_choice_among_several_files_is_named(univoc: Path) -> None:
    pytest.importorskip("yaml", reason="univoc's configuration is YAML")
    _beside(univoc, "config.yaml", UNIVOC_YAML)
    _beside(univoc, "another.yaml", UNIVOC_YAML)
    notes = read_checkpoint(univoc).notes
    assert "settings are config.yaml's; beside it there is also another.yaml (--config names another)" in notes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hop_length": 200}, "hop_length: found 200 in hparams.json, expected 6 from the weights' shapes"),
        ({"num_mels": 80}, "n_mels: found 80 in hparams.json, expected 6"),
        ({"rnn_dims": 512}, "hidden_size: found 512 in hparams.json, expected 8"),
        ({"upsample_factors": [3, 2]}, r"factors: found \(3, 2\) in hparams.json, expected \(2, 3\)"),
        ({"bits": 9}, "found 9 bits for 16 outputs"),
        ({"sample_rate": "22k"}, "audio.sample_rate: found '22k', expected an integer"),
        ({"mel_range": [0]}, r"mel_range: found \[0\], expected two numbers"),
        ({"pad_mode": "edge"}, "pad_mode: found 'edge', expected constant or reflect"),
        ({"fmin": 10**400}, "fmin: found 10000000000000000000, expected a number of ordinary size"),
        ({"win_length": 4096}, "audio.win_length: found 4096, expected at most n_fft"),
        ([1, 2], "found list, expected an object"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_wrong_configurations_are_refused(values: object, message: str, fatchord: Path) -> None:
    _beside(fatchord, "hparams.json", values)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(fatchord)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preprocess: {sr: ${nothing.here}}", "cannot be read"),
        ('a: "${b}"\nb: "${a}"', "nested more than 20 deep"),
        ('model: {hop_length: "${nothing.here}"}', "refers to nothing in this file"),
        ("preprocess: 5", "preprocess is int, expected an object"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system ['exit 1']", "cannot be read"),
    ],
)
def test_wrong_yaml_is_refused(text: str, message: str, univoc: Path) -> None:
    pytest.importorskip("yaml", reason="univoc's configuration is YAML")
    _beside(univoc, "config.yaml", text)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(univoc)


def test_unknown_overrides_are_refused(fatchord: Path) -> None:
    with pytest.raises(CheckpointError, match="unknown setting 'sample_rat', expected one of family, preset, config"):
        read_checkpoint(fatchord, sample_rat=1)
    with pytest.raises(CheckpointError, match="hop_length: found 200 in the given settings, expected 6"):
        read_checkpoint(fatchord, hop_length=200)
    with pytest.raises(CheckpointError, match=r"no\.json is not there"):
        read_checkpoint(fatchord, config="no.json")


def test_univoc_is_always_companded(univoc: Path) -> None:
    with pytest.raises(CheckpointError, match="mu_law: found False, expected True for univoc"):
        read_checkpoint(univoc, mu_law=False)
