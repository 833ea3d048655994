"""Reader of mel spectrograms: numpy's arrays and archives, PyTorch's tensors."""

from __future__ import annotations

import io
import math
import shlex
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.file_kinds import check_regular

if TYPE_CHECKING:
    import torch

Array = NDArray[np.generic]

_NUMPY = b"\x93NUMPY"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""Signatures of an archive and of an empty archive."""
_PICKLE = b"\x80"
_TORCH_SUFFIXES = (".pt", ".pth")
_MAX_NAMES = 8
"""Entries of a file that an error message lists."""


def read_mel(path: str | Path, content: bytes | None = None) -> Array:
    """Reads a mel spectrogram: ``.npy``, ``.npz`` or a PyTorch file of tensors, recognised by content.

    An ``.npz`` or a dictionary of tensors must contain one array, or one named ``mel``. Pickled objects are not loaded.

    Args:
        path: the file.
        content: the bytes to read instead of the file; ``path`` is then their name in errors.

    Returns:
        The array, of any shape and type.

    Raises:
        VocoderError: the file is missing, cut short, or not an array of numbers.
    """
    if content is None:
        check_regular(path)
    try:
        with Path(path).open("rb") if content is None else io.BytesIO(content) as file:
            return _read(path, file)
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None


def holds_mel(content: bytes) -> bool:
    """Whether bytes have the signature of a file that `read_mel` reads."""
    return content.startswith((_NUMPY, *_ZIP, _PICKLE))


def mel_frames(path: Path) -> int:
    """Reads the last dimension of an array from its header; 0 for PyTorch files, which have none.

    Raises:
        Exception: of any kind, if there is no such header.
    """
    with path.open("rb") as file:
        if file.read(4) not in _ZIP:
            file.seek(0)
            return int(_header(file)[0][-1])
        with zipfile.ZipFile(file) as archive:
            if _is_torch(archive):
                return 0
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            with archive.open(f"{_only(path, names)}.npy") as member:
                return int(_header(member)[0][-1])


def _read(path: str | Path, file: BinaryIO) -> Array:
    start = file.read(6)
    file.seek(0)
    if start.startswith(_ZIP):
        return _read_zip(path, file)
    if start.startswith(_PICKLE) and Path(path).suffix.lower() in _TORCH_SUFFIXES:
        return _read_torch(path, file)
    try:
        values = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python code; the parser raises errors of many types
        raise VocoderError(f"{path}: {_npy_fault(file, error)}") from None
    return np.asarray(values)


def _npy_fault(file: BinaryIO, error: Exception) -> str:
    try:
        end = file.seek(0, io.SEEK_END)
        file.seek(0)
        shape, kind = _header(file)
        stated, found = math.prod(shape) * kind.itemsize, end - file.tell()
    except Exception:
        return f"not an array that can be read ({error}); save it with numpy.save"
    if found < stated and not kind.hasobject:
        return (
            f"not an array that can be read: it is cut short, found {found} bytes of the {stated} that {kind} "
            f"{shape} takes; copy or save it again"
        )
    return f"not an array that can be read ({error}); save it with numpy.save"


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads shape and type from an ``.npy`` header."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    return shape, kind


def _read_zip(path: str | Path, file: BinaryIO) -> Array:
    try:
        with zipfile.ZipFile(file) as archive:
            torch_file = _is_torch(archive)
    except Exception as error:
        raise VocoderError(
            f"{path}: not an archive of arrays that can be read: it is cut short or damaged ({error}); copy it again"
        ) from None
    file.seek(0)
    if torch_file:
        return _read_torch(path, file)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            name = _only(path, arrays.files)
            values = arrays[name]
    except VocoderError:
        raise
    except Exception as error:
        raise VocoderError(f"{path}: not an array that can be read ({error}); save it with numpy.savez") from None
    if not isinstance(values, np.ndarray):  # numpy returns other members as bytes
        raise VocoderError(f"{path}: found {name}, which is no array, in this archive; save the mel with numpy.savez")
    return values


def _is_torch(archive: zipfile.ZipFile) -> bool:
    return any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())


def _only(path: str | Path, names: list[str]) -> str:
    """Returns the name of the array to read.

    Raises:
        VocoderError: there are several arrays, none of them named ``mel``, or there is none.
    """
    if "mel" in names:
        return "mel"
    if len(names) == 1:
        return names[0]
    shown = ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")
    found = f"found {len(names)} arrays ({shown})" if names else "found no array"
    raise VocoderError(f"{path}: {found}, expected one array, or one with the name mel")


def _read_torch(path: str | Path, file: BinaryIO) -> Array:
    try:
        import torch  # optional, and only needed for such files
    except ImportError:
        code = (
            "import numpy, sys, torch; "
            "numpy.save(sys.argv[2], torch.load(sys.argv[1], map_location='cpu', weights_only=True).numpy())"
        )
        new = Path(path).with_suffix(".npy")
        raise VocoderError(
            f"{path}: found a PyTorch file, which PyTorch alone reads, and it is not installed; install the extra "
            f"'export', or convert the file where PyTorch is: "
            f'python -c "{code}" {shlex.quote(str(path))} {shlex.quote(str(new))}'
        ) from None
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VocoderError(
            f"{path}: not a tensor that can be read ({reason}); expected a PyTorch file that holds a mel and nothing "
            "else: torch.save(mel, path), or numpy.save"
        ) from None
    tensor = _mel_tensor(path, saved)
    try:
        tensor = tensor.detach()
        return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
    except Exception as error:  # sparse, quantised, without values
        raise VocoderError(
            f"{path}: found a tensor that is no plain array ({error}); save it with numpy.save"
        ) from None


def _mel_tensor(path: str | Path, saved: Any) -> torch.Tensor:
    import torch

    if isinstance(saved, torch.Tensor):
        return saved
    if isinstance(saved, dict):
        tensors = {str(name): value for name, value in saved.items() if isinstance(value, torch.Tensor)}
        if "mel" in tensors:
            return tensors["mel"]
        if _is_checkpoint(saved):
            raise VocoderError(
                f"{path}: found the checkpoint of a model, expected a mel; 'wavernn-trt export' makes a model "
                "directory of a WaveRNN's checkpoint"
            )
        return tensors[_only(path, list(tensors))]
    raise VocoderError(
        f"{path}: found {type(saved).__name__}, expected a tensor, or a dictionary with a tensor named mel"
    )


def _is_checkpoint(saved: dict[Any, Any]) -> bool:
    """Whether a dictionary contains parameters (``rnn1.weight_ih_l0``) or dictionaries of tensors (``state_dict``)."""
    import torch

    names = [name for name, value in saved.items() if isinstance(name, str) and isinstance(value, torch.Tensor)]
    if any("." in name or name.startswith(("weight", "bias")) for name in names):
        return True
    inside = [value for value in saved.values() if isinstance(value, dict)]
    return any(isinstance(value, torch.Tensor) for each in inside for value in each.values()) or "param_groups" in saved
