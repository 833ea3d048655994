"""Numbers and paths on the command line: what is accepted, and what the error says."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


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


def seed(text: str) -> int:
    """A seed of the random numbers that samples are drawn with."""
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer from 0 to 2**64 - 1")
    return int(text)


def path(text: str) -> Path:
    """A path; an empty one, which a shell makes of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("found '', expected a path; is a shell variable not set?")
    return Path(text)
