"""Mels in numpy's and PyTorch's files."""

from __future__ import annotations

import contextlib
import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.mel_file import holds_mel, mel_frames, read_mel

MEL = np.random.default_rng(0).uniform(-1, 0, (80, 9)).astype(np.float32)


def npz(**arrays: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """A function (object, name) -> a file of `torch.save`."""
    torch = pytest.importorskip("torch", reason="PyTorch's files need PyTorch")

    def save(value: object, name: str = "mel.pt", **options: Any) -> Path:
        torch.save(value, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    "content", [npy(MEL), npy(np.asfortranarray(MEL)), npz(mel=MEL), npz(a=MEL), npz(f0=MEL[0], mel=MEL, text=MEL[:2])]
)
def test_one_array_or_the_one_named_mel_is_read(tmp_path: Path, content: bytes) -> None:
    assert np.array_equal(read_mel("stdin", content), MEL)
    assert holds_mel(content)
    for name in ("mel.npy", "mel.npz", "x"):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read_mel(tmp_path / name), MEL)
        assert mel_frames(tmp_path / name) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz(a=MEL, b=MEL), r"found 2 arrays \(a, b\), expected one array, or one with the name mel"),
        (npz(**{f"a{number}": MEL for number in range(20)}), r"found 20 arrays \(a0, .*, a7, …\)"),
        (npz(), "found no array"),
        (npz(mel=np.array([{}], dtype=object)), "not an array that can be read"),
        (b"", "not an array"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'", "not an array"),
        (b"garbage", "not an array"),
        (npz(mel=MEL)[:-40], "not an archive of arrays that can be read: it is cut short or damaged"),
        (
            npy(MEL)[:-1000],
            r"it is cut short, found 1880 bytes of the 2880 that float32 \(80, 9\) takes",
        ),
        (npy(MEL)[:128], "it is cut short, found 0 bytes of the 2880"),
        (npy(MEL)[:60], "not an array that can be read"),
    ],
)
def test_files_without_exactly_one_mel_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mel.npz"
    path.write_bytes(content)
    for given_content in (None, content):
        with pytest.raises(VocoderError, match=message) as refused:
            read_mel(path, given_content)
        assert str(refused.value).startswith(f"{path}: ")


def test_a_file_without_arrays_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mel", b"text")
    with pytest.raises(VocoderError, match="found mel, which is no array"):
        read_mel(tmp_path / "a.npz")
    with pytest.raises(VocoderError, match="No such file"):
        read_mel(tmp_path / "nowhere.npy")


def test_tensors_are_read(saved: Callable[..., Path]) -> None:
    import torch

    tensor = torch.from_numpy(MEL)
    for value in (
        tensor,
        tensor.requires_grad_(),
        torch.nn.Parameter(tensor.detach()),
        tensor.detach().T.contiguous().T,
        {"mel": tensor, "text": "hello", "f0": tensor[0]},
        {"spectrogram": tensor, "rate": 22050},
    ):
        assert np.array_equal(read_mel(saved(value)), MEL)
    assert np.array_equal(read_mel(saved(tensor, "old.pth", _use_new_zipfile_serialization=False)), MEL)
    assert np.array_equal(read_mel("stdin", saved(tensor).read_bytes()), MEL)
    halved = read_mel(saved(tensor.bfloat16()))
    assert halved.dtype == np.float32
    np.testing.assert_allclose(halved, MEL, atol=0.01)
    assert read_mel(saved(tensor[None])).shape == (1, 80, 9), "shapes are checked against the model, elsewhere"


def test_checkpoints_and_other_objects_are_refused_by_name(saved: Callable[..., Path]) -> None:
    import torch

    layer = torch.nn.GRU(4, 4)
    optimizer = torch.optim.Adam(layer.parameters())
    for value in (
        layer.state_dict(),
        {"model": layer.state_dict(), "step": 3},
        {"model_state": layer.state_dict(), "optimizer_state": optimizer.state_dict()},
        optimizer.state_dict(),
        torch.nn.Linear(2, 2).state_dict(),
    ):
        with pytest.raises(VocoderError, match="found the checkpoint of a model, expected a mel"):
            read_mel(saved(value))
    for value, message in (
        ({"a": torch.zeros(2), "b": torch.zeros(2)}, r"found 2 arrays \(a, b\)"),
        ({"rate": 22050}, "found no array"),
        ([torch.zeros(2)], "found list, expected a tensor"),
        (torch.zeros(2, 2).to_sparse(), "no plain array"),
    ):
        with pytest.raises(VocoderError, match=message):
            read_mel(saved(value))


def test_nothing_in_a_pytorch_file_is_executed(saved: Callable[..., Path], tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    for options in ({}, {"_use_new_zipfile_serialization": False}):
        with pytest.raises(VocoderError, match="not a tensor that can be read"):
            read_mel(saved({"mel": Harmful()}, **options))
    assert not (tmp_path / "executed").exists()


def test_a_truncated_pytorch_file_is_refused(saved: Callable[..., Path]) -> None:
    import torch

    content = saved(torch.from_numpy(MEL)).read_bytes()
    for kept in (0.2, 0.9):
        with pytest.raises(VocoderError, match="cut short or damaged"):
            read_mel("mel.pt", content[: int(len(content) * kept)])


def test_without_pytorch_the_error_has_a_command_that_converts(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    path = saved(torch.from_numpy(MEL), "my mel.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(VocoderError, match=r"found a PyTorch file, .* extra 'export', or convert") as refused:
        read_mel(path)
    command = str(refused.value).split("python -c ")[1]
    assert command.endswith(f"'{path}' '{path.with_suffix('.npy')}'")
    monkeypatch.undo()
    code = command.split('"')[1]
    monkeypatch.setattr(sys, "argv", ["-c", str(path), str(path.with_suffix(".npy"))])
    exec(code, {})
    assert np.array_equal(np.load(path.with_suffix(".npy")), MEL)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.sampled_from([npy(MEL), npz(mel=MEL)]),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=8), st.integers(0, 20)), max_size=4),
    kept=st.integers(0, 4000) | st.none(),
)
def test_damaged_files_are_mels_or_refused(
    content: bytes, edits: list[tuple[int, bytes, int]], kept: int | None
) -> None:
    for place, inserted, removed in edits:
        content = content[:place] + inserted + content[place + removed :]
    with contextlib.suppress(VocoderError):
        assert isinstance(read_mel("mel", content[:kept]), np.ndarray)
