"""Kinds of files that are read as checkpoints, and how other files are refused."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors are read with its own package")

from wavernn_trt.export.checkpoints.checkpoint import read_checkpoint
from wavernn_trt.export.checkpoints.state import load_state
from wavernn_trt.export.checkpoints.torch_file import named_classes
from wavernn_trt.export.errors import CheckpointError

State = dict[str, Any]


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _tar(path: Path, members: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _refused(path: Path, entry: str | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        load_state(path, entry)
    assert str(error.value).startswith(str(path))
    return str(error.value)


def _is_state(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# Formats


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "pytorch_model.bin"])
def test_safetensors_are_recognised_by_content(name: str, state: State, tmp_path: Path) -> None:
    half = {f"model.{each}": value.half() for each, value in state.items()}
    safetensors.save_file(half, tmp_path / name, metadata={"format": "pt", "rate": "22050"})
    stored = load_state(tmp_path / name)
    _is_state(stored.state, {each: value.half().float() for each, value in state.items()})
    assert stored.beside == {"format": "pt", "rate": "22050"}
    assert stored.entry is None
    assert read_checkpoint(tmp_path / name).model.config.family == "fatchord"


def test_damaged_safetensors_are_refused(state: State, tmp_path: Path) -> None:
    content = safetensors.save(state)
    path = tmp_path / "a.safetensors"
    for length in (*range(1, 40), 500, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert "copy the file again" in _refused(path) or length < 10
    path.write_bytes(content[:8] + content[8:].replace(b"F32", b"F99", 1))
    assert "is damaged, expected a safetensors file" in _refused(path)


def test_npz_files_of_weights_are_read_without_objects(state: State, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{name: value.numpy() for name, value in state.items()})
    _is_state(load_state(tmp_path / "a.npz").state, state)
    np.savez(tmp_path / "b.npz", weights=np.array([{"a": 1}], dtype=object))
    assert "hold Python objects, expected numbers only" in _refused(tmp_path / "b.npz")


def test_pickle_protocols_that_torch_cannot_read_are_named(state: State, tmp_path: Path) -> None:
    for zipped in (True, False):
        for protocol in (3, 4):
            content = _saved(state, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            (tmp_path / "a.pt").write_bytes(content)
            try:
                _is_state(load_state(tmp_path / "a.pt").state, state)
            except CheckpointError as error:
                assert f"found pickle protocol {protocol}, expected 2" in str(error)  # noqa: PT017


# Pickles that hold more than weights


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_module_is_refused_with_the_way_out(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    options: dict[str, Any] = {"_use_new_zipfile_serialization": zipped}
    path.write_bytes(_saved(torch.nn.Sequential(torch.nn.GRU(2, 2)), **options))
    message = _refused(path)
    assert "found a whole pickled model (torch.nn.modules.container.Sequential, torch.nn.modules.rnn.GRU)" in message
    assert "torch.save(m.state_dict(), 'weights.pt')" in message


def test_classes_are_named_in_every_pickle_protocol() -> None:
    for protocol in range(6):
        content = pickle.dumps([argparse.Namespace(a=1), {"b": argparse.Namespace(c=2)}], protocol)
        assert "argparse.Namespace" in named_classes(io.BytesIO(content)), protocol
        named_classes(io.BytesIO(content[:-3]))


# Archives


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_one_checkpoint_in_an_archive_is_read_with_its_settings(kind: str, state: State, tmp_path: Path) -> None:
    members = {
        "voice/latest_weights.pyt": _saved({"model": state, "epoch": 4}),
        "voice/latest_optim.pyt": _saved({"state": {}, "param_groups": []}),
        "voice/hparams.py": b"sample_rate = 16000\n",
        "voice/config.json": b"{}",
        "voice/large.json": b" " * 300_000,
        "voice/binary.txt": b"\xff\xfe\x00",
        "voice/mel.npy": b"\x93NUMPY",
        "__MACOSX/voice/._latest_weights.pyt": b"abc",
    }
    path = tmp_path / f"voice.{kind}"
    _zip(path, members) if kind == "zip" else _tar(path, members, "w:gz" if kind == "tar.gz" else "w")
    stored = load_state(path)
    _is_state(stored.state, state)
    assert stored.entry == "model"
    files = {"voice/hparams.py": "sample_rate = 16000\n", "voice/config.json": "{}"}
    assert stored.beside == {"epoch": 4, "files": files}
    assert stored.notes == (f"read voice/latest_weights.pyt inside voice.{kind}",)


def test_safetensors_in_a_zip_are_read(state: State, tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"model.safetensors": safetensors.save(state, {"a": "b"})})
    stored = load_state(path)
    _is_state(stored.state, state)
    assert stored.beside == {"a": "b"}


def test_several_checkpoints_in_an_archive_are_chosen_by_name(
    state: State, reference: ModuleType, tmp_path: Path
) -> None:
    other = reference.random_state(seed=1)
    members = {"a/first.pt": _saved(state), "a/second.pth": _saved({"net": state, "ema": other})}
    path = _zip(tmp_path / "a.zip", members)
    message = _refused(path)
    assert "a zip archive with 2 checkpoints (a/first.pt, a/second.pth), expected one; choose with --entry" in message
    assert "a zip archive with 2 checkpoints" in _refused(path, "third.pt")
    for entry, expected in {"a/first.pt": state, "first.pt": state, "second.pth": other}.items():
        _is_state(load_state(path, entry).state, expected)
    _is_state(load_state(path, "second.pth:net").state, state)
    assert "entry: found no 'x'" in _refused(path, "second.pth:x")
    _is_state(load_state(_zip(tmp_path / "b.zip", {"b.pt": members["a/second.pth"]}), "net").state, state)


def test_an_archive_with_only_an_optimizer_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"latest_optim.pyt": _saved({"state": {}, "param_groups": []})})
    assert "latest_optim.pyt: found an optimizer's state" in _refused(path)
    assert _refused(path).endswith("such as latest_weights.pyt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: _zip(path, {"a.wav": b"RIFF"}), "a zip archive without a checkpoint (a.wav), expected one of"),
        (lambda path: _zip(path, {}), "a zip archive without a checkpoint (it is empty)"),
        (lambda path: _tar(path, {"a.wav": b"RIFF"}), "a tar archive without a checkpoint (a.wav)"),
        (lambda path: _zip(path, {"a.pt": _zipped({"b.pt": b"x"})}), "a.pt: found an archive inside an archive"),
        (lambda path: _zip(path, {"a.pt": b"<html>"}), "a.pt: found a web page"),
        (
            lambda path: _zip(path, {"a.pt": bytes(20_000_000)}),
            "claim to unpack to 20000000, expected at most 50 times",
        ),
        (lambda path: _tar(path, {"a.pt": bytes(20_000_000)}), "claim to unpack to 20000"),
        (lambda path: path.write_bytes(gzip.compress(b"weights")), "found a gzip file that is no tar archive"),
        (lambda path: _zip(path, {"m/archive_format": b"pt2"}), "found a program that torch.export saved"),
    ],
)
def test_other_archives_are_refused_for_their_reason(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "archive")
    assert message in _refused(tmp_path / "archive")


def _zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_names_in_an_archive_are_never_paths(state: State, tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    for kind, make in (("zip", _zip), ("tar.gz", _tar)):
        path = make(folder / f"a.{kind}", {"../escaped.pt": _saved(state), "/tmp/../x.json": b"{}"})
        _is_state(load_state(path).state, state)
    assert {each.name for each in tmp_path.rglob("*")} == {"inner", "a.zip", "a.tar.gz"}


def test_damaged_archives_are_refused(state: State, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    for make in (_zip, _tar):
        content = make(path, {"a.pt": _saved(state)}).read_bytes()
        for length in (30, len(content) // 2, len(content) - 30):
            path.write_bytes(content[:length])
            assert "damaged" in _refused(path) or "gzip file" in _refused(path)
    inside = {"a.safetensors": safetensors.save(state)}  # which has no checksums of its own
    for content in (_zip(path, inside, zipfile.ZIP_STORED).read_bytes(), _tar(path, inside).read_bytes()):
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 1
        path.write_bytes(flipped)
        assert "damaged" in _refused(path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "safetensors"])
def test_any_damage_ends_in_weights_or_in_an_error_for_the_user(kind: str, state: State, tmp_path: Path) -> None:
    inside = {"a.pt": _saved({"model": state, "loss": np.float64(1)}, _use_new_zipfile_serialization=False)}
    path = tmp_path / "file"
    if kind == "safetensors":
        path.write_bytes(safetensors.save(state))
    else:
        _zip(path, inside) if kind == "zip" else _tar(path, inside)
    content = path.read_bytes()
    choose = random.Random(2)
    for _ in range(120):
        damaged = bytearray(content)
        damaged[choose.randrange(min(len(content), choose.choice((100, 3000, 10**9))))] ^= 1 << choose.randrange(8)
        if choose.random() < 0.2:
            damaged = damaged[: choose.randrange(len(damaged))]
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            load_state(path)


def test_an_encrypted_zip_is_refused(state: State, tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"a.pt": _saved(state)})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(signature) + offset] |= 1
    path.write_bytes(content)
    assert "found an encrypted zip archive; unpack it with its password first" in _refused(path)


def test_a_checkpoint_that_a_zip_tool_compressed_is_read(state: State, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(_saved(state))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    _is_state(load_state(_zip(tmp_path / "a.pt", members)).state, state)


# Other files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "found an HDF5 file (Keras)"),
        ("model.onnx", b"\x08\x08\x12\x07pytorch", "found an ONNX graph"),
        ("model.pt", b"\x08\x0a\x12\x07pytorch" + bytes(9), "found an ONNX graph"),
        ("model.ckpt.index", b"\x00\x00\x01\x02", "found a file of a TensorFlow checkpoint"),
        ("checkpoint", b'model_checkpoint_path: "a"', "found the index of TensorFlow checkpoints"),
        ("model.pt", b"<!DOCTYPE html><html>Sign in</html>", "found a web page, which was saved in place of the file"),
        ("model.pt", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "found a web page"),
        ("model.pt", b"Access denied", "found text ('Access denied')"),
        ("model.pt", b'{"error": "Not Found"}', "the download failed: repeat it"),
        ("config.json", b'{"audio": {}}', "if it is a settings file, name it with config"),
        ("model.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "run git lfs pull"),
        ("mel.npy", b"\x93NUMPY\x01\x00", "found a numpy array"),
        ("clip.pt", b"fLaC\x00\x00", "found a recording"),
        ("a.rar", b"Rar!\x1a\x07", "found a RAR archive, expected"),
        (
            "model.safetensors.index.json",
            json.dumps({"metadata": {}, "weight_map": {"I.weight": "a"}}).encode(),
            "found the index of weights that are split over several files",
        ),
    ],
)
def test_other_files_are_recognised_and_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in _refused(tmp_path / name)
