"""Settings files: which ones beside a checkpoint are read, and why others cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.settings.files import named_settings, parse_settings_file, settings_beside

SETTINGS = {"sample_rate": 8000, "n_fft": 64}


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _beside(folder: Path) -> tuple[list[str], str]:
    files, notes = settings_beside(folder / "checkpoint.pt")
    return [file.name for file in files], "\n".join(notes)


def test_a_file_without_settings_does_not_hide_one_with_them(tmp_path: Path) -> None:
    _write(tmp_path, "config.json", '{"data": {"sampling_rate": 22050}}')
    assert _beside(tmp_path) == (["config.json"], "")
    _write(tmp_path, "hparams.py", "sample_rate = 8000")
    assert _beside(tmp_path) == (
        ["hparams.py"],
        "config.json beside the checkpoint: no settings of a WaveRNN, and not used",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"resblock": "1", "resblock_kernel_sizes": [3, 7, 11], "sampling_rate": 22050}'),
        ("config.yml", "sampling_rate: 24000\ngenerator_type: ParallelWaveGANGenerator\n"),
        ("preprocess.yaml", "preprocessing: {audio: {sampling_rate: 22050}, text: {text_cleaners: [english]}}"),
        ("config.json", '{"model": "tacotron2", "audio": {"sample_rate": 22050}}'),
    ],
)
def test_other_models_settings_are_recognised_at_any_depth(name: str, text: str, tmp_path: Path) -> None:
    if not name.endswith(".json"):
        pytest.importorskip("yaml", reason="YAML needs PyYAML")
    _write(tmp_path, name, text)
    names, notes = _beside(tmp_path)
    assert names == []
    assert f"{name} beside the checkpoint is not used: it is another model's" in notes


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    _write(tmp_path, "wavernn_config.json", '{"sample_rate": 8000,}')
    _write(tmp_path, "mel.json", b"\x00\xff\x80" * 99)
    _write(tmp_path, "metadata.json", b" " * (2 << 20))
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    assert _beside(tmp_path) == (
        [],
        "cannot be read as settings, and not used: mel.json, metadata.json, wavernn_config.json",
    )


def test_only_some_files_of_a_large_folder_are_read_with_a_note(tmp_path: Path) -> None:
    for i in range(200):
        _write(tmp_path, f"{i:03}.json", "{}")
    assert "136 more files beside the checkpoint were not looked at: name one with --config" in _beside(tmp_path)[1]


def test_keys_are_read_in_any_case(tmp_path: Path) -> None:
    _write(tmp_path, "settings.json", '{"SAMPLE_RATE": 8000}')
    assert _beside(tmp_path)[0] == ["settings.json"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.JSON", json.dumps(SETTINGS).encode("utf-16")),
        ("a.YML", b"sample_rate: 8000\nn_fft: 64\n"),
        ("a.yaml", b"sample_rate: 8000\nn_fft: 64\n"),
        ("a.py", "# -*- coding: gbk -*-\nsample_rate = 8000  # 采样率\nn_fft = 64\n".encode("gbk")),
        ("a.py", b"\xef\xbb\xbfsample_rate = 8000\r\nn_fft = 64\r\n"),
    ],
)
def test_suffixes_in_any_case_and_declared_encodings_are_read(name: str, content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="YAML needs PyYAML")
    assert parse_settings_file(_write(tmp_path, name, content)).values == SETTINGS


def test_tuples_of_lightning_are_read(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="YAML needs PyYAML")
    path = _write(tmp_path, "hparams.yaml", "upsample_factors: !!python/tuple\n- 5\n- 11\n")
    assert parse_settings_file(path).values == {"upsample_factors": [5, 11]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "it is empty"),
        ("a.yaml", " \n", "it is empty"),
        ("a.json", '{"sample_rate": 1, "sample_rate": 2}', "sample_rate is stated twice, with two values"),
        ("a.yaml", "audio:\n  sample_rate: 1\n  sample_rate: 2\n", "sample_rate is stated twice, with two values"),
        ("a.json", "[" * 5000, "cannot be read"),
        ("a.py", "sample_rate = 8000  # 采样率".encode("gbk"), "save it as UTF-8|encoding"),
        ("a.json", b'{"x": "\xff"}', "byte 7 is not utf-8; save it as UTF-8"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a.yaml", "a: &a [1, *a]", "nested more than 20 deep"),
        ("a.yaml", "a: ${b}", r"\$\{b\} refers to nothing"),
    ],
)
def test_unreadable_files_are_refused_with_the_reason(
    name: str, content: str | bytes, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("yaml", reason="YAML needs PyYAML")
    with pytest.raises(CheckpointError, match=message):
        parse_settings_file(_write(tmp_path, name, content))


def test_a_small_file_cannot_stand_for_billions_of_values(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="YAML needs PyYAML")
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 15)]
    with pytest.raises(CheckpointError, match="found more than 100000 values, expected settings"):
        parse_settings_file(_write(tmp_path, "config.yaml", "\n".join(lines)))


def test_a_folder_in_place_of_a_settings_file_is_refused_as_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder, expected a settings file; give the file inside it"):
        named_settings(tmp_path)


def test_settings_that_weights_and_biases_wrote_are_read(tmp_path: Path) -> None:
    text = '{"wandb_version": 1, "_wandb": {"value": {}}, "sample_rate": {"desc": null, "value": 8000}}'
    assert parse_settings_file(_write(tmp_path, "config.json", text)).values == {"sample_rate": 8000}
