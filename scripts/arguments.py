"""Helpers for argparse: subcommands, types of numbers, sizes, times and paths, and ``--mel-from``."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts import COMMANDS

if TYPE_CHECKING:
    from wavernn_trt.export.config import AudioConfig

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_command(
    subparsers: Any,
    name: str,
    run: Callable[[argparse.Namespace], int] | None,
    description: str,
    epilog: str | None = None,
    summary: str | None = None,
) -> argparse.ArgumentParser:
    """Adds a subcommand and returns its parser.

    Args:
        subparsers: of the command.
        name: of the subcommand.
        run: returns the exit code; ``None`` for a subcommand that has subcommands of its own.
        description: printed before the options; line breaks are kept.
        epilog: printed after the options; line breaks are kept.
        summary: its line in the command's help; ``None`` is that in `COMMANDS`.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary or COMMANDS[name][1],
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def positive_integer(text: str) -> int:
    """Parses an integer of at least 1."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive integer")
    return int(text)


def positive_integers(text: str) -> tuple[int, ...]:
    """Parses integers of at least 1, separated by commas."""
    return tuple(positive_integer(word) for word in text.split(","))


def positive_number(text: str) -> float:
    """Parses a finite number above 0."""
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
    """Parses a seed of the random numbers, 0 to 2**64 - 1."""
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer from 0 to 2**64 - 1")
    return int(text)


def byte_size(text: str) -> int:
    """Parses a number of bytes, with or without a unit: ``10GiB``, ``1.5 GB``, ``0``."""
    number, unit = _split_unit(text)
    if number is None or unit.upper() not in _BYTES:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a size such as 10GiB, 500MB or 0")
    return round(number * _BYTES[unit.upper()])


def duration(text: str) -> float:
    """Parses a time with a unit, such as ``30d``, ``12h``, ``2w``; returns seconds."""
    number, unit = _split_unit(text)
    if number is None or unit not in _SECONDS:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a time such as 30d, 12h or 2w (s, m, h, d, w)")
    return number * _SECONDS[unit]


def _split_unit(text: str) -> tuple[float | None, str]:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]*)", text)
    return (float(match[1]), match[2]) if match else (None, "")


def path(text: str) -> Path:
    """Parses a path; rejects an empty one, which pathlib would take for the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("found '', expected a path; is a shell variable not set?")
    return Path(text)


def comma_separated(text: str) -> tuple[str, ...]:
    """Parses names separated by commas."""
    return tuple(text.split(","))


def add_mel_from(parser: Any) -> None:
    """Adds ``--mel-from`` to a parser or to a group of options."""
    parser.add_argument(
        "--mel-from",
        action=_MelFrom,
        metavar="NAME",
        help="convert mels from the levels of another project to the model's: tacotron2, hifigan, coqui, fatchord, "
        "rtvc, librosa-power, …; 'list' prints all names (default: mels have the model's levels)",
    )


class _MelFrom(argparse.Action):
    """Checks the name of a convention; ``list`` prints all names and exits, as ``--help`` does."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        from wavernn_trt.runtime.mel_comparison.conventions import CONVENTIONS, names

        if values == "list":
            for one in CONVENTIONS:
                also = f"; also: {', '.join(one.aliases)}" if one.aliases else ""
                print(f"{one.name:<14} {one.summary}{also}")
            parser.exit(0)
        if values not in names():
            known = ", ".join(names())
            parser.error(f"argument --mel-from: found {values!r}, expected list or one of {known}")
        setattr(namespace, self.dest, values)


def check_mel_from(name: str | None, files: Iterable[Path]) -> None:
    """Raises a VocoderError if ``--mel-from`` is given and no input is a mel."""
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.files.input_files import is_mel
    from wavernn_trt.runtime.files.standard_streams import is_input_stream

    if name is not None and not any(is_mel(file) or is_input_stream(file) for file in files):
        raise VocoderError("--mel-from: found recordings only, expected a mel; a recording's mel is always the model's")


def mel_from_differences(name: str | None, audio: AudioConfig) -> str | None:
    """Returns a warning about properties of the mels that ``--mel-from`` cannot convert, or ``None``."""
    from wavernn_trt.runtime.mel_comparison.conventions import differences

    different = differences(name, audio) if name is not None else []
    if not different:
        return None
    return (
        f"warning: --mel-from {name} converts levels only. Mels of {name} usually have: {'; '.join(different)}. Such "
        "mels sound wrong unless they were computed with the model's settings"
    )
