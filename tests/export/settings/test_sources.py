"""Several sources of settings: which are used, how they complete each other, and contradictions."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")

from wavernn_trt.export.checkpoints.checkpoint import CheckpointError, read_checkpoint

FRAMES = {"n_fft": 64, "win_length": 24}


def _write(folder: Path, name: str, values: object) -> Path:
    (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))
    return folder / name


def _save(reference: ModuleType, folder: Path, **beside: Any) -> Path:
    torch.save({"state_dict": reference.random_state(), **beside}, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def test_a_named_file_completes_the_checkpoint_s_own_settings(reference: ModuleType, tmp_path: Path) -> None:
    path = _save(reference, tmp_path, sample_rate=8000)
    config = _write(tmp_path, "other.json", {**FRAMES, "fmin": 77, "rnn_dims": 8})
    read = read_checkpoint(path, config=config)
    assert (read.audio.sample_rate, read.audio.n_fft, read.audio.fmin) == (8000, 64, 77.0)
    assert [line.partition(" = ")[0] for line in read.assumed] == ["min_level_db", "mu_law"]
    with pytest.raises(CheckpointError, match=r"hidden_size: found 9 in the checkpoint's own config or other\.json"):
        read_checkpoint(path, config=_write(tmp_path, "other.json", {**FRAMES, "rnn_dims": 9}))


def test_a_named_file_gives_hints_beside_the_checkpoint_s_own_settings(reference: ModuleType, tmp_path: Path) -> None:
    path = _save(reference, tmp_path, sample_rate=16000)
    config = _write(tmp_path, "other.json", {**FRAMES, "input_type": "mulaw", "fmax": 7600})
    assert read_checkpoint(path, config=config).preset == "gwang-mulaw"


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (
            {"config": {"sample_rate": 16000, **FRAMES}, "sample_rate": 8000},
            r"own config contradicts itself: sample_rate = 8000 and config\.sample_rate = 16000",
        ),
        (
            {"config": {"sample_rate": 16000, **FRAMES}, "hparams": {"sr": 8000}},
            r"config\.sample_rate = 16000 and hparams\.sr = 8000",
        ),
        ({"config": '{"sample_rate": 16000'}, r"config in the checkpoint is text that cannot be read"),
    ],
)
def test_a_checkpoint_whose_entries_contradict_each_other_is_refused(
    beside: dict[str, Any], message: str, reference: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(_save(reference, tmp_path, **beside))


def test_all_entries_with_settings_are_read(reference: ModuleType, tmp_path: Path) -> None:
    path = _save(reference, tmp_path, config={"sample_rate": 8000}, params=FRAMES, fmin=50, log="done", mode="train")
    audio = read_checkpoint(path).audio
    assert (audio.sample_rate, audio.n_fft, audio.win_length, audio.fmin) == (8000, 64, 24, 50.0)
    path = _save(reference, tmp_path, config=json.dumps({"audio": {"sample_rate": 8000, **FRAMES}}))
    assert read_checkpoint(path).audio.sample_rate == 8000


def test_the_version_is_that_of_the_file_whose_sizes_are_the_weights(fatchord: Path) -> None:
    wrong = {"audio": {"sample_rate": 16000, "num_mels": 80, "log_func": "np.log10"}, "wavernn_model_params": {}}
    _write(fatchord.parent, "config.json", wrong)
    _write(fatchord.parent, "hparams.py", "sample_rate = 8000\nn_fft = 64\nwin_length = 24\nvoc_rnn_dims = 8\n")
    read = read_checkpoint(fatchord)
    assert (read.preset, read.audio.sample_rate) == ("fatchord", 8000)
    assert "config.json beside the checkpoint is not used: its sizes are another model's" in read.notes


def test_another_model_s_file_cannot_contradict_the_right_one(fatchord: Path) -> None:
    _write(fatchord.parent, "a.json", {"sample_rate": 8000, "rnn_dims": 8, **FRAMES})
    _write(fatchord.parent, "b.json", {"sample_rate": 9000, "rnn_dims": 9})
    assert read_checkpoint(fatchord).audio.sample_rate == 8000


def test_words_for_one_mode_do_not_contradict_each_other(reference: ModuleType, tmp_path: Path) -> None:
    path = _save(reference, tmp_path)
    _write(tmp_path, "a.json", {"sample_rate": 8000, "mode": "RAW", **FRAMES})
    _write(tmp_path, "b.json", {"sample_rate": 8000.0, "mode": "bits"})
    assert read_checkpoint(path).model.config.output == "categorical"


def test_no_note_is_repeated(fatchord: Path, tmp_path: Path) -> None:
    config = _write(tmp_path, "other.json", {"sample_rate": 8000, "batch_size": 3, **FRAMES})
    notes = read_checkpoint(fatchord, config=config).notes
    assert len(notes) == len(set(notes)) == 2


def test_another_model_s_file_is_used_where_it_is_named_and_that_is_noted(fatchord: Path, tmp_path: Path) -> None:
    config = _write(tmp_path, "tts.json", {"model": "tacotron2", "audio": {"sample_rate": 8000, **FRAMES}})
    read = read_checkpoint(fatchord, config=config)
    assert read.audio.sample_rate == 8000
    assert read.notes[0].startswith("tts.json is another model's (model = 'tacotron2')")


def _zip(reference: ModuleType, folder: Path, members: dict[str, object]) -> Path:
    content = io.BytesIO()
    torch.save(reference.random_state(), content)
    with zipfile.ZipFile(folder / "voice.zip", "w") as archive:
        archive.writestr("voice/model.pt", content.getvalue())
        for name, values in members.items():
            archive.writestr(name, values if isinstance(values, str) else json.dumps(values))
    return folder / "voice.zip"


def test_other_files_in_an_archive_are_not_used(reference: ModuleType, tmp_path: Path) -> None:
    members = {"README.txt": "A voice.", "train.py": "print 'Python 2'", "notes.json": "{oops", "requirements.txt": ""}
    config = {"sample_rate": 8000, **FRAMES}
    read = read_checkpoint(_zip(reference, tmp_path, {**members, "voice/config.json": config}))
    assert read.audio.sample_rate == 8000
    assert "cannot be read as settings, and not used: notes.json" in read.notes


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config.json": "{oops"}, r"config\.json in the archive cannot be read: .*; unpack the archive, and correct"),
        (
            {"config.json": {"sample_rate": 8000, **FRAMES}, "hparams.json": {"sample_rate": 9000}},
            r"found 8000 in config\.json in the archive and 9000 in hparams\.json in the archive",
        ),
    ],
)
def test_settings_in_an_archive_are_checked_as_those_beside_a_checkpoint(
    members: dict[str, object], message: str, reference: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(_zip(reference, tmp_path, members))


def test_settings_in_an_archive_complete_each_other(reference: ModuleType, tmp_path: Path) -> None:
    members: dict[str, object] = {"config.json": {"sample_rate": 8000}, "hparams.json": FRAMES, "readme.md": "x"}
    members["tts/config.json"] = {"model": "tacotron2", "audio": {"sample_rate": 24000}}
    read = read_checkpoint(_zip(reference, tmp_path, members))
    assert (read.audio.sample_rate, read.audio.n_fft) == (8000, 64)
    assert any("tts/config.json in the archive is not used: it is another model's" in note for note in read.notes)


def test_keys_whose_values_are_imported_are_hints(reference: ModuleType, tmp_path: Path) -> None:
    torch.save({"model_state": reference.random_state()}, tmp_path / "vocoder.pt")
    text = "from synthesizer.hparams import hparams as _syn_hp\nvoc_mode = 'RAW'\nsample_rate = _syn_hp.sample_rate\n"
    _write(tmp_path, "hparams.py", text + "mel_max_abs_value = _syn_hp.max_abs_value\n")
    read = read_checkpoint(tmp_path / "vocoder.pt")
    assert read.preset == "rtvc"
    assert any("computed by code, and not read: sample_rate, mel_max_abs_value" in note for note in read.notes)


def test_names_in_notes_cannot_control_a_terminal(fatchord: Path) -> None:
    _write(fatchord.parent, "config.json", {"\x1b[2Jx": 1, "y\x07": {"a": 1}, "sample_rate": 8000, **FRAMES})
    assert not any(letter in "".join(read_checkpoint(fatchord).notes) for letter in "\x1b\x07")


def test_a_mode_of_a_file_that_does_not_fit_names_the_file(fatchord: Path) -> None:
    _write(fatchord.parent, "config.json", {"sample_rate": 8000, "mode": 4.0, **FRAMES})
    assert read_checkpoint(fatchord).model.config.output == "categorical"
    _write(fatchord.parent, "config.json", {"sample_rate": 8000, "mode": 9, **FRAMES})
    with pytest.raises(CheckpointError, match=r"found 9 bits for 16 outputs.*\(config\.json states the mode; --set"):
        read_checkpoint(fatchord)
