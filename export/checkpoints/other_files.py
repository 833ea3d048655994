"""Recognises files that are no checkpoint by their first bytes, and names the way out for each."""

from __future__ import annotations

import re

_EXPECTED = "expected a checkpoint that torch.save wrote, or safetensors"
_LFS = b"version https://git-lfs"
_PAGE = re.compile(rb"\s*(?:<!doctype html|<html|<\?xml|<head|<body)", re.IGNORECASE)
_TENSORFLOW = re.compile(r".*\.(?:index|meta|pb|data-\d+-of-\d+)")
_TEXT = bytes({*range(32, 127), *b"\t\n\r"})
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89HDF", "an HDF5 file (Keras)", "convert the weights to PyTorch; no WaveRNN that is read here uses Keras"),
    (b"\x93NUMPY", "a numpy array", "give the checkpoint; a mel is an input of vocode"),
    (b"RIFF", "a recording", "give the checkpoint; a recording is an input of vocode"),
    (b"fLaC", "a recording", "give the checkpoint; a recording is an input of vocode"),
    (b"OggS", "a recording", "give the checkpoint; a recording is an input of vocode"),
    (b"BZh", "a bzip2 archive", "unpack it and give the checkpoint inside"),
    (b"\xfd7zXZ", "an xz archive", "unpack it and give the checkpoint inside"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it and give the checkpoint inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the checkpoint inside"),
    (b"Rar!", "a RAR archive", "unpack it and give the checkpoint inside"),
    (b"model_checkpoint_path:", "the index of TensorFlow checkpoints", "give the checkpoint of a PyTorch training"),
)


def refuse_other_file(name: str, start: bytes) -> str | None:
    """What a file is, what was expected and the way out; ``None`` where its first bytes could be a checkpoint's.

    Args:
        name: of the file, without its folder.
        start: its first 512 bytes.
    """
    for magic, found, way_out in _STARTS:
        if start.startswith(magic):
            return f"found {found}, {_EXPECTED}; {way_out}"
    if start.startswith(_LFS):
        return (
            f"found a Git LFS pointer, which stands for a file that was not downloaded, {_EXPECTED}; "
            "run git lfs pull in that repository, or download the file itself"
        )
    if _PAGE.match(start):
        return (
            f"found a web page, which was saved in place of the file, {_EXPECTED}; download it again with the link of "
            "the file itself (a page may ask for a login or a confirmation first)"
        )
    if _TENSORFLOW.fullmatch(name) and start[:2] != b"PK" and start[:1] != b"\x80":
        return f"found a file of a TensorFlow checkpoint, {_EXPECTED}; give the checkpoint of a PyTorch training"
    if name.endswith(".onnx") or (start[:1] == b"\x08" and start[2:3] == b"\x12" and start[1] < 32):
        return (
            f"found an ONNX graph, {_EXPECTED}; give the checkpoint that it was exported from "
            "(a model directory of wavernn-trt export is given as the folder)"
        )
    if start and not start.strip(_TEXT):
        return _refuse_text(start)
    return None


def _refuse_text(start: bytes) -> str:
    if b'"weight_map"' in start:
        return (
            f"found the index of weights that are split over several files, {_EXPECTED}; merge them into one file "
            "with safetensors.torch.save_file or torch.save"
        )
    words = " ".join(start.decode("ascii").split())[:50]
    return (
        f"found text ({words!r}), {_EXPECTED}; if it is a settings file, name it with config, and give the weights' "
        "file here; if it should be the checkpoint, the download failed: repeat it"
    )
