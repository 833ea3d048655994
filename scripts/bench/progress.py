"""Saying on stderr what is being measured."""

from __future__ import annotations

import sys
from collections.abc import Callable

from wavernn_trt.scripts import PROGRAM

Report = Callable[[str], None]
"""Is told what is measured next; an empty line at the end."""


def say(line: str) -> None:
    """A line on stderr; on a terminal, one line that is written over."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)


def silent(line: str) -> None:
    """Says nothing."""
