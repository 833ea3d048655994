"""Reader of manifests: JSON lines, each with an input and optionally its output, seed and sample rate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from wavernn_trt.runtime.decoding.uniforms import check_seed
from wavernn_trt.runtime.errors import VocoderError, check_positive
from wavernn_trt.runtime.files.file_kinds import check_regular
from wavernn_trt.runtime.files.input_files import MEL_SUFFIXES, is_mel

MANIFEST_SUFFIX = ".jsonl"
_KEYS = ("input", "output", "sample_rate", "seed")

Entry = str | tuple[str, str | None, int | None, int | None]
"""Input; or input, output, seed and sample rate, where one of the last three differs from the default."""


def read_manifest(path: Path) -> Iterator[Entry]:
    """Reads a manifest line by line.

    Yields:
        An entry for each line that is not empty.

    Raises:
        VocoderError: the file cannot be read or has no entries, or a line is not valid; the message names the line.
    """
    number, empty = 0, True
    try:
        check_regular(path)
        # Editors on Windows write a byte order mark. Only a line feed ends a line: JSON strings may contain other
        # characters that Python treats as line ends.
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    empty = False
                    yield _entry(line)
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise VocoderError(f"{path}: not UTF-8 text; expected one JSON object a line") from None
    except VocoderError as error:
        raise VocoderError(f"{path}, line {number}: {error}" if number else str(error)) from None
    if empty:
        raise VocoderError(f'{path}: found no lines, expected one JSON object a line, such as {{"input": "a.wav"}}')


def default_output(source: str) -> str:
    """Returns the relative path of the output of an input whose manifest entry names none."""
    return os.path.splitext(source)[0] + ".wav"


def _entry(line: str) -> Entry:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise VocoderError(f"not JSON ({error})") from None
    if not isinstance(entry, dict):
        raise VocoderError(f'found {type(entry).__name__}, expected an object such as {{"input": "a.wav"}}')
    for key in entry:
        if key not in _KEYS:
            raise VocoderError(f"found key {key!r}, expected {', '.join(_KEYS)}")
    source = _path(entry.get("input"), "input")
    target = _path(entry["output"], "output") if entry.get("output") is not None else _inside(source)
    if target.suffix.lower() != ".wav":
        raise VocoderError(f"output: found {str(target)!r}, expected a name that ends in .wav")
    if target.is_absolute() or ".." in target.parts:
        raise VocoderError(f"output: found {str(target)!r}, expected a path inside the output folder")
    rate = entry.get("sample_rate")
    if rate is not None:
        check_positive("sample_rate", rate, "of Hz")
        if not is_mel(source):
            raise VocoderError(
                f"sample_rate: found {rate} for {source}, expected it for mels ({', '.join(MEL_SUFFIXES)}) only; "
                "leave it out, since a recording's file has its rate"
            )
    seed = entry.get("seed")
    own = None if str(target) == default_output(str(source)) else str(target)
    if own is None and seed is None and rate is None:
        return str(source)
    return str(source), own, None if seed is None else check_seed(seed), rate


def _path(value: object, key: str) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise VocoderError(f"{key}: found {value!r}, expected a path")
    return Path(value)


def _inside(source: PurePath) -> Path:
    """Default output inside the output folder: the input's relative path if that stays inside, else its name."""
    inside = not source.is_absolute() and ".." not in source.parts
    return Path(source if inside else source.name).with_suffix(".wav")
