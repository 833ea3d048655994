"""Numbers and paths on the command line: what is accepted, and what the error says."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavernn_trt.export.config import AudioConfig

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def positive_integer(text: str) -> int:
    """An integer from 1 on."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive integer")
    return int(text)


def positive_integers(text: str) -> tuple[int, ...]:
    """Integers from 1 on, with commas between them."""
    return tuple(positive_integer(word) for word in text.split(","))


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive number")
    return value


def names_of(known: Sequence[str], otherwise: str = "") -> Callable[[str], tuple[str, ...]]:
    """The parser of names with commas between them.

    Args:
        known: the names that are accepted.
        otherwise: what else is accepted, for the error.
    """

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"found {name!r}, expected some of {','.join(known)}{otherwise}")
        return names

    return parse


def seed(text: str) -> int:
    """A seed of the random numbers that samples are drawn with."""
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer from 0 to 2**64 - 1")
    return int(text)


def byte_size(text: str) -> int:
    """A number of bytes, with or without a unit: ``10GiB``, ``1.5 GB``, ``0``."""
    number, unit = _measured(text)
    if number is None or unit.upper() not in _BYTES:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a size such as 10GiB, 500MB or 0")
    return round(number * _BYTES[unit.upper()])


def duration(text: str) -> float:
    """A time with its unit, in seconds: ``30d``, ``12h``, ``2w``."""
    number, unit = _measured(text)
    if number is None or unit not in _SECONDS:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a time such as 30d, 12h or 2w (s, m, h, d, w)")
    return number * _SECONDS[unit]


def add_mel_from(parser: Any) -> None:
    """Adds ``--mel-from``.

    Args:
        parser: a parser or a group of one.
    """
    parser.add_argument(
        "--mel-from",
        action=_MelFrom,
        metavar="NAME",
        help="levels of the mels, which are converted to the model's: tacotron2, hifigan, coqui, fatchord, rtvc, "
        "librosa-power, …; 'list' prints all (default: mels have the model's levels)",
    )


class _MelFrom(argparse.Action):
    """Checks a convention's name; ``list`` prints the names and ends the program, as ``--help`` does."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        from wavernn_trt.runtime.mel_comparison.conventions import CONVENTIONS, names

        if values == "list":
            for one in CONVENTIONS:
                also = f"; also: {', '.join(one.aliases)}" if one.aliases else ""
                print(f"{one.name:<14} {one.summary}{also}")
            parser.exit(0)
        if values not in names():
            parser.error(f"argument --mel-from: found {values!r}, expected list or one of {', '.join(names())}")
        setattr(namespace, self.dest, values)


def check_mel_from(name: str | None, files: Iterable[Path]) -> None:
    """Refuses ``--mel-from`` where no input is a mel.

    Args:
        name: the option's value.
        files: the inputs.

    Raises:
        VocoderError: no file is a mel.
    """
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.files.input_files import is_mel
    from wavernn_trt.runtime.files.standard_streams import is_input_stream

    if name is not None and not any(is_mel(file) or is_input_stream(file) for file in files):
        raise VocoderError("--mel-from: found recordings only, expected a mel; a recording's mel is always the model's")


def mel_from_differences(name: str | None, audio: AudioConfig) -> str | None:
    """What ``--mel-from`` does not convert, as a line for people; ``None`` where that is nothing.

    Args:
        name: the option's value.
        audio: the model's audio settings.
    """
    from wavernn_trt.runtime.mel_comparison.conventions import differences

    different = differences(name, audio) if name is not None else []
    if not different:
        return None
    return (
        f"warning: --mel-from {name} converts levels only. Mels of {name} usually have: {'; '.join(different)}. Such "
        "mels sound wrong unless they were computed with the model's settings"
    )


def _measured(text: str) -> tuple[float | None, str]:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]*)", text)
    return (float(match[1]), match[2]) if match else (None, "")


def path(text: str) -> Path:
    """A path; an empty one, which a shell makes of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("found '', expected a path; is a shell variable not set?")
    return Path(text)
