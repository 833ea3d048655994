"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def lay_out_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line for the heading and for each row; the first column is words and the others are numbers."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join((first, *others)).rstrip()
