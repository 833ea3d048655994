"""Each project's settings file: names, units, nulls, contradictions, and values that are not used."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")

from wavernn_trt.export.checkpoints.checkpoint import CheckpointError, read_checkpoint
from wavernn_trt.export.settings.table import SETTABLE, SETTINGS, setting_of, without_effect

# Sizes of the random checkpoints that tests/export/reference.py makes.
SIZES = {"rnn_dims": 8, "fc_dims": 7, "compute_dims": 5, "res_out_dims": 8, "res_blocks": 2, "pad": 2}
FATCHORD_PY = """
wav_path = '/path/to/wav_files/'
sample_rate = 8000
n_fft = 64
fft_bins = n_fft // 2 + 1
num_mels = 6
hop_length = 6
win_length = 24
fmin = 40
min_level_db = -90
ref_level_db = 20
bits = 4
mu_law = True
peak_norm = True
voc_mode = 'RAW'
voc_upsample_factors = (2, 3)
voc_rnn_dims = 8
voc_seq_len = hop_length * 5
tts_schedule = [(7,  1e-3,  10_000,  32)]
"""
FORWARD_PY = FATCHORD_PY.replace("min_level_db = -90\nref_level_db = 20\n", "fmax = 4000\npitch_max_freq = 600\n")
GENEING_PY = """
import tensorflow as tf
hparams = tf.contrib.training.HParams(
    name="WaveRNN", input_type='bits', bits=4, mulaw_quantize_channels=512, num_mels=6, fmin=95, fmax=3800, n_fft=64,
    hop_size=6, win_size=24, sample_rate=8000, min_level_db=-100, ref_level_db=20, max_abs_value=4.,
    preemphasize=False, preemphasis=0.97, rescaling=True, rescaling_max=0.999, upsample_factors=(2, 3),
    seq_len_factor=7,
)
hparams.seq_len = hparams.seq_len_factor * hparams.hop_size
"""
GWANG_PY = """
class hparams:
    input_type = 'mulaw'
    mulaw_quantize_channels = 16
    distribution = 'gaussian'
    num_mels = 6
    fmin = 125
    fmax = 3800
    fft_size = 48
    hop_size = 6
    win_length = 24
    sample_rate = 8000
    preemphasis = 0.97
    min_level_db = -100
    ref_level_db = 20
    upsample_factors = (2, 3)
    seq_len = 5 * hop_size
"""
EROGOL = {"num_mels": 6, "num_freq": 65, "sample_rate": 8000, "frame_length_ms": 3, "frame_shift_ms": 0.75}
EROGOL |= {"preemphasis": 0.98, "min_level_db": -100, "ref_level_db": 20, "signal_norm": True, "symmetric_norm": False}
EROGOL |= {"max_norm": 1, "clip_norm": True, "mel_fmin": 0.0, "mel_fmax": 4000.0, "do_trim_silence": False}
COQUI = {"fft_size": 64, "hop_length": 6, "win_length": 24, "sample_rate": 8000, "num_mels": 6, "log_func": "np.log10"}


def save(state: dict[str, Any], folder: Path, *, entry: str | None = None, **beside: Any) -> Path:
    path = folder / "checkpoint.pt"
    torch.save(state if entry is None else {entry: state, **beside}, path)
    return path


def write(folder: Path, name: str, values: object) -> Path:
    (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))
    return folder / name


@pytest.fixture
def one_gru(reference: ModuleType, tmp_path: Path) -> Path:
    return save(reference.random_state(dataclasses.replace(reference.SMALL, layers=1, fc_sizes=(7,))), tmp_path)


def test_each_key_is_one_setting() -> None:
    keys = Counter(key for setting in SETTINGS for key in (setting.name, *setting.aliases))
    assert [key for key, count in keys.items() if count > 1] == []
    assert [key for key in keys if without_effect(key)] == []
    assert {setting.name for setting in SETTINGS} >= set(SETTABLE)


@pytest.mark.parametrize(
    ("layers", "name", "values", "preset", "expected"),
    [
        (
            2,
            "hparams.py",
            FATCHORD_PY,
            "fatchord",
            {"sample_rate": 8000, "n_fft": 64, "win_length": 24, "fmin": 40.0, "min_level_db": -90.0}
            | {"reference_db": 0.0, "peak": 1.0, "log": "decibel", "mel_range": (0.0, 1.0)},
        ),
        (
            2,
            "hparams.py",
            FORWARD_PY,
            "forwardtacotron-v1",
            {"sample_rate": 8000, "fmin": 40.0, "fmax": 4000.0, "log": "natural"},
        ),
        (
            2,
            "config.yaml",
            {
                "dsp": {"sample_rate": 8000, "n_fft": 64, "num_mels": 6, "hop_length": 6, "win_length": 24, "fmin": 0}
                | {"fmax": 4000, "peak_norm": False, "bits": 4, "mu_law": True, "voc_mode": "RAW"},
                "vocoder": {"model": {"mode": "RAW", **SIZES}, "training": {"target": 11000}},
                "tacotron": {"model": {"rnn_dims": 512}},
            },
            "forwardtacotron-v2",
            {"sample_rate": 8000, "n_fft": 64, "win_length": 24, "fmax": 4000.0, "log": "natural", "peak": None},
        ),
        (
            2,
            "hparams.json",
            {"sample_rate": 8000, "n_fft": 64, "num_mels": 6, "hop_size": 6, "win_size": 24, "fmin": 55, "fmax": 3800}
            | {"min_level_db": -100, "ref_level_db": 20, "max_abs_value": 4.0, "mel_max_abs_value": 4.0}
            | {
                "preemphasis": 0.97,
                "preemphasize": True,
                "rescale": True,
                "rescaling_max": 0.9,
                "symmetric_mels": True,
            },
            "rtvc",
            {"mel_range": (-1.0, 1.0), "preemphasis": 0.97, "waveform_preemphasis": 0.97, "peak": 0.9}
            | {"reference_db": 20.0, "win_length": 24},
        ),
        (
            2,
            "hparams.py",
            GWANG_PY,
            "gwang-mulaw",
            {"stft": "lws", "n_fft": 48, "fmin": 125.0, "preemphasis": 0.97, "reference_db": 20.0},
        ),
        (
            1,
            "hparams.py",
            GENEING_PY,
            "geneing-bits",
            {"mel_range": (-4.0, 4.0), "preemphasis": 0.97, "win_length": 24, "fmin": 95.0, "fmax": 3800.0},
        ),
        (
            2,
            "config.json",
            {"audio": EROGOL, "mode": "4", "mulaw": False, "upsample_factors": [2, 3]},
            "erogol-lj",
            {"n_fft": 128, "win_length": 24, "hop_length": 6, "mel_range": (0.0, 1.0), "fmax": 4000.0, "floor": 1e-5},
        ),
        (
            2,
            "config.json",
            {
                "audio": {"fft_size": 64, "hop_length": None, "win_length": None, "sample_rate": 8190, "num_mels": 6}
                | {"frame_length_ms": 3, "frame_shift_ms": 0.75, "max_norm": None, "mel_fmin": None, "mel_fmax": None},
                "wavernn_model_params": {"rnn_dims": 8},
                "mode": 4,
                "mulaw": True,
                "padding": 2,
            },
            "mozilla",
            {"hop_length": 6, "win_length": 24, "mel_range": (-1.0, 1.0), "fmin": 0.0, "fmax": None},
        ),
        (
            2,
            "config.json",
            {
                "audio": COQUI
                | {"hop_length": None, "win_length": None, "sample_rate": 8190}
                | {"frame_length_ms": 3.05, "frame_shift_ms": 0.7625},
                "model_args": {"mode": 4, "mulaw": True},
            },
            "coqui",
            {"hop_length": 6, "win_length": 24, "floor": 1e-8},
        ),
    ],
)
def test_each_project_s_settings(
    layers: int, name: str, values: object, preset: str, expected: dict[str, Any], reference: ModuleType, tmp_path: Path
) -> None:
    layout = dataclasses.replace(reference.SMALL, layers=layers, fc_sizes=(7,) * layers)
    checkpoint = save(reference.random_state(layout), tmp_path)
    write(tmp_path, name, values)
    read = read_checkpoint(checkpoint)
    assert read.preset == preset
    assert {field: getattr(read.audio, field) for field in expected} == expected


def test_torchaudio_s_arguments(reference: ModuleType, tmp_path: Path) -> None:
    from wavernn_trt.export.families.fatchord_layout import to_torchaudio_name

    state = {to_torchaudio_name(name, 2): value for name, value in reference.random_state().items()}
    checkpoint = save(state, tmp_path)
    write(
        tmp_path,
        "params.json",
        {"sample_rate": 8000, "hop_length": 6, "win_length": 24, "n_fft": 64, "f_min": 50.0, "n_bits": 4, "n_freq": 6}
        | {
            "mulaw": True,
            "loss": "crossentropy",
            "n_rnn": 8,
            "n_fc": 7,
            "upsample_scales": [2, 3],
            "min_level_db": -90,
        },
    )
    read = read_checkpoint(checkpoint)
    assert read.assumed == ()
    assert (read.audio.fmin, read.audio.n_fft, read.audio.min_level_db) == (50.0, 64, -90.0)


def test_version_0_1_of_univoc_has_another_range_and_label_scale(univoc: Path) -> None:
    write(
        univoc.parent,
        "config.json",
        {
            "preprocessing": {"sample_rate": 16000, "num_fft": 512, "num_mels": 6, "fmin": 50, "preemph": 0.97}
            | {"min_level_db": -100, "hop_length": 50, "win_length": 200, "bits": 4},
            "vocoder": {"conditioning_channels": 3, "embedding_dim": 4, "rnn_channels": 8, "fc_channels": 5},
        },
    )
    read = read_checkpoint(univoc)
    assert read.preset == "univoc-0.1"
    assert read.model.config.label_scale == "symmetric"
    assert (read.audio.mel_range, read.audio.mel_norm, read.audio.reference_db) == ((0.0, 1.0), "slaney", 0.0)
    assert (read.audio.n_fft, read.audio.peak) == (512, 0.999)


def test_sizes_of_every_project_are_compared_with_the_weights(fatchord: Path) -> None:
    for key, value in SIZES.items():
        write(fatchord.parent, "hparams.json", {f"voc_{key}": value + 1})
        with pytest.raises(CheckpointError, match=r"expected \d+ from the weights' shapes"):
            read_checkpoint(fatchord)


def test_every_setting_works_in_a_file_as_it_does_with_set(fatchord: Path) -> None:
    values: dict[str, Any] = {
        **{"sample_rate": 8000, "hop_length": 6, "win_length": 48, "n_fft": 48, "n_mels": 6, "mel_norm": "sum"},
        **{"fmin": 10.0, "fmax": 3900.0, "pad_mode": "constant", "stft": "lws", "preemphasis": 0.5, "log": "decibel"},
        **{"floor": 1e-6, "reference_db": 3.0, "min_level_db": -70.0, "mel_range": [-2.0, 2.0], "clip_high": False},
        **{"clip_low": False, "waveform_preemphasis": 0.6, "peak": 0.8, "delay": 3, "mode": 4, "mu_law": True},
        **{"label_scale": "symmetric", "amplitude_feedback": True, "temperature": 0.7},
    }
    assert set(values) == set(SETTABLE)
    stated = read_checkpoint(fatchord, **values)
    write(fatchord.parent, "hparams.json", values)
    read = read_checkpoint(fatchord)
    assert read.assumed == ()
    assert (read.audio, read.model.config) == (stated.audio, stated.model.config)
    for name, value in values.items():
        field = getattr(read.audio, name, getattr(read.model.config, name, value))
        assert field == (tuple(value) if isinstance(value, list) else value), name


@pytest.mark.parametrize("null", [None, "none", "None", "null"])
def test_all_words_for_null_are_read_as_null(null: object, fatchord: Path) -> None:
    write(fatchord.parent, "hparams.json", {"fmax": null, "peak": null, "sample_rate": null})
    assert (read_checkpoint(fatchord).audio.fmax, read_checkpoint(fatchord).audio.peak) == (None, None)
    assert read_checkpoint(fatchord).audio.sample_rate == 22050
    assert read_checkpoint(fatchord, fmax=null, sample_rate=null).audio.fmax is None


def test_a_null_window_is_as_long_as_the_transform(fatchord: Path) -> None:
    write(fatchord.parent, "hparams.json", {"n_fft": 512, "win_length": None})
    assert read_checkpoint(fatchord).audio.win_length == 512


def test_milliseconds_need_a_sample_rate_of_any_source(coqui: Path) -> None:
    audio = {"num_mels": 6, "frame_length_ms": 3, "frame_shift_ms": 0.75, "fft_size": 64}
    write(coqui.parent, "config.json", {"audio": audio, "model_args": {"mode": 4}})
    assert read_checkpoint(coqui, sample_rate=8000).audio.win_length == 24
    write(coqui.parent, "config.json", {"audio": audio | {"frame_shift_ms": "long"}, "model_args": {"mode": 4}})
    with pytest.raises(CheckpointError, match=r"frame_shift_ms: found 'long' in config\.json, expected a number"):
        read_checkpoint(coqui)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"signal_norm": False}, {"reference_db": 0.0, "min_level_db": -100.0, "mel_range": (-100.0, 0.0)}),
        ({"signal_norm": False, "spec_gain": 10}, {"mel_range": (-50.0, 0.0), "clip_low": False}),
        ({"spec_gain": 10, "ref_level_db": 10, "min_level_db": -50}, {"reference_db": 20.0, "min_level_db": -100.0}),
        ({"clip_norm": False}, {"clip_low": False, "clip_high": False}),
        ({"log_func": "np.log", "spec_gain": 1, "signal_norm": False}, {"log": "natural", "floor": 1e-8}),
        ({"do_sound_norm": True}, {"peak": 0.95}),
    ],
)
def test_coqui_s_level_conventions(change: dict[str, Any], expected: dict[str, Any], coqui: Path) -> None:
    write(coqui.parent, "config.json", {"audio": COQUI | change, "model_args": {"mode": 4, "mulaw": True}})
    audio = read_checkpoint(coqui).audio
    assert {name: getattr(audio, name) for name in expected} == expected


def test_settings_that_are_not_used_are_noted(fatchord: Path) -> None:
    values = {
        "sampl_rate": 1,
        "batch_size": 32,
        "optimizer": {"lr": 1e-4},
        "voc_lr": 1,
        "ref_level_db": 20,
        "voc_pad": 2,
    }
    write(fatchord.parent, "hparams.json", values)
    notes = "\n".join(read_checkpoint(fatchord).notes)
    assert "not known, and not used: sampl_rate (is sample_rate meant?)" in notes
    assert "without effect here: batch_size, voc_lr" in notes
    assert "sections that are not a vocoder's settings, and not used: optimizer.*" in notes
    assert "ref_level_db is not used: fatchord's code does not apply it" in notes


def test_every_key_of_coqui_s_own_configuration_is_known(upstream: ModuleType) -> None:
    keys = upstream.coqui_keys()
    known = keys["audio"] | keys["top"]
    sections = {"model", "audio", "model_args", "wavernn_model_params"}
    assert {key for key in known if not setting_of(key) and not without_effect(key)} <= sections


def test_a_file_that_contradicts_itself_is_refused(coqui: Path) -> None:
    write(coqui.parent, "config.json", {"audio": {"fft_size": 64, "num_freq": 65}, "mode": 4})
    with pytest.raises(CheckpointError, match=r"audio.fft_size = 64 and audio.num_freq = 65, which is 128 samples"):
        read_checkpoint(coqui)
    write(coqui.parent, "config.json", {"audio": {"sample_rate": 8000}, "model_args": {"sr": 16000}, "mode": 4})
    with pytest.raises(CheckpointError, match=r"audio\.sample_rate = 8000 and model_args\.sr = 16000"):
        read_checkpoint(coqui)


def test_two_sources_that_differ_are_refused_unless_the_user_decides(fatchord: Path, tmp_path: Path) -> None:
    write(tmp_path, "hparams.json", {"sample_rate": 8000})
    write(tmp_path, "params.json", {"sample_rate": 16000})
    with pytest.raises(CheckpointError, match=r"found 8000 in hparams\.json and 16000 in params\.json"):
        read_checkpoint(fatchord)
    assert read_checkpoint(fatchord, sample_rate=11025).audio.sample_rate == 11025
    assert read_checkpoint(fatchord, config=tmp_path / "params.json").audio.sample_rate == 16000
    (tmp_path / "params.json").unlink()
    with pytest.raises(CheckpointError, match=r"found 8000 in hparams\.json and 22050 in preset fatchord"):
        read_checkpoint(fatchord, preset="fatchord")


def test_the_checkpoint_s_own_settings_have_precedence_over_a_neighbour_s(coqui: Path, reference: ModuleType) -> None:
    own = {"audio": COQUI, "model_args": {"mode": 4}}
    torch.save({"model": reference.random_state(), "config": own}, coqui)
    other = {"audio": COQUI | {"sample_rate": 16000}, "model_args": {"mode": 4}}
    file = write(coqui.parent, "config.json", other)
    read = read_checkpoint(coqui)
    assert read.audio.sample_rate == 8000
    assert "config.json beside the checkpoint is not used: the checkpoint holds its own settings" in read.notes
    with pytest.raises(CheckpointError, match=r"found 8000 in the checkpoint's own config and 16000 in config\.json"):
        read_checkpoint(coqui, config=file)


def test_python_settings_are_never_run(fatchord: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    write(
        tmp_path,
        "hparams.py",
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nsample_rate = 8000\n"
        "win_length = round(0.003 * sample_rate)\nn_fft = max(64, 32)\nfmin = -5 + 15.0\n",
    )
    read = read_checkpoint(fatchord)
    assert (read.audio.sample_rate, read.audio.fmin) == (8000, 10.0)
    assert any("computed by code, and not read: win_length, n_fft" in note for note in read.notes)
    assert not marker.exists()
    write(tmp_path, "hparams.py", "sample_rate = (")
    with pytest.raises(CheckpointError, match=r"hparams\.py cannot be read"):
        read_checkpoint(fatchord)


def test_the_window_of_mozilla_follows_from_the_hop(reference: ModuleType, tmp_path: Path) -> None:
    state = reference.random_state(dataclasses.replace(reference.SMALL, factors=(5, 5, 11)))
    checkpoint = save(state, tmp_path, entry="model", optimizer={}, step=1)
    audio = {"fft_size": 2048, "hop_length": None, "win_length": None, "frame_length_ms": 50, "frame_shift_ms": 12.5}
    audio |= {"sample_rate": 22050, "num_mels": 6}
    write(tmp_path, "config.json", {"audio": audio, "wavernn_model_params": {"rnn_dims": 8}, "mode": 4})
    assert read_checkpoint(checkpoint).audio.win_length == 1100
    write(tmp_path, "config.json", {"audio": audio, "model_args": {"rnn_dims": 8}, "mode": 4})
    assert read_checkpoint(checkpoint).audio.win_length == 1102


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "sample_rate: '8000'\nwin_length: 24.0\nn_fft: 64\nfloor: 1e-6\nmu_law: 'False'\nfmin: '.5'\n"),
        ("config.json", '{"sr": 8e3, "win_size": "24", "n_fft": 64.0, "floor": "1e-6", "mulaw": 0, "fmin": 0.5}'),
        ("hparams.py", "sample_rate = '8000'\nwin_length = 8000 / 1000 * 3\nn_fft = 64\nfloor=1e-6\nmu_law=0\nfmin=.5"),
    ],
)
def test_numbers_and_switches_in_other_types_are_read(name: str, text: str, fatchord: Path) -> None:
    write(fatchord.parent, name, text)
    read = read_checkpoint(fatchord)
    audio = read.audio
    assert (audio.sample_rate, audio.win_length, audio.n_fft, audio.floor, audio.fmin) == (8000, 24, 64, 1e-6, 0.5)
    assert not read.model.config.mu_law


def test_switches_and_numbers_in_text_are_read_as_such(coqui: Path) -> None:
    for no in (False, "False", 0, "no"):
        write(coqui.parent, "config.json", {"audio": COQUI | {"signal_norm": no, "spec_gain": "10"}, "mode": "4"})
        assert read_checkpoint(coqui).audio.mel_range == (-50.0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal_norm": "maybe"}, r"audio\.signal_norm: found 'maybe' in config\.json, expected true or false"),
        ({"log_func": "log"}, r"audio\.log_func: found 'log' in config\.json, expected np\.log10 or np\.log"),
        ({"log_func": []}, r"audio\.log_func: found \[\] in config\.json"),
        ({"spec_gain": 0}, r"audio\.spec_gain: found 0 in config\.json, expected a positive number"),
        ({"max_norm": "4 dB"}, r"audio\.max_norm: found '4 dB' in config\.json, expected a number"),
        (
            {"sample_rate": "auto"},
            r"found 'auto', expected an integer; correct it in config\.json, or .* --set sample_rate=",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_key(change: dict[str, Any], message: str, coqui: Path) -> None:
    write(coqui.parent, "config.json", {"audio": COQUI | change, "mode": 4})
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(coqui)


def test_a_value_that_no_source_states_is_refused_as_the_usual_one(fatchord: Path) -> None:
    with pytest.raises(CheckpointError, match=r"win_length: found 1100.*no source states it, and this is fatchord's"):
        read_checkpoint(fatchord, n_fft=64)


def test_overrides_are_read_as_a_user_writes_them(fatchord: Path) -> None:
    read = read_checkpoint(
        fatchord, mu_law="False", preemphasis=".97", peak="1e-1", mel_range="-4,4", sample_rate="8e3"
    )
    assert not read.model.config.mu_law
    assert (read.audio.preemphasis, read.audio.peak, read.audio.mel_range) == (0.97, 0.1, (-4.0, 4.0))
    with pytest.raises(CheckpointError, match=r"unknown setting 'hop_size' \(hop_length is meant\?\)"):
        read_checkpoint(fatchord, hop_size=6)
