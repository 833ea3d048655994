"""A comparison, laid out for people."""

from __future__ import annotations

from collections.abc import Iterator

from wavernn_trt.scripts.bench.compare import Comparison, Row
from wavernn_trt.scripts.bench.text_table import lay_out_table

_HEAD = ("", "batch", "old", "new", "ratio", "old limit", "new limit", "ratio", "judged by", "may change", "")
_BASES = {"speed": "samples/s", "share": "limit", None: "-"}


def lay_out_comparison(comparison: Comparison, old: str) -> Iterator[str]:
    """The lines.

    Args:
        comparison: of two reports.
        old: the name of the earlier one.
    """
    yield f"compared with {old}"
    if comparison.machine:
        yield f"ANOTHER MACHINE: {'; '.join(comparison.machine)}: judged are shares of the limit, not samples/s"
    elif any(row.basis == "share" for row in comparison.rows):
        yield "THE MACHINE'S SPEED HAS CHANGED, by the limit measured beside: there, shares of it are judged"
    if comparison.versions:
        yield f"versions  {'; '.join(comparison.versions)}"
    if any(comparison.others_shares):
        before, after = (_percent(share) for share in comparison.others_shares)
        yield f"busy      other processes took {before} of all cores, now {after}"
    yield ""
    yield from lay_out_table(_HEAD, [_row(row) for row in comparison.rows])
    slower, faster = (sum(row.verdict == verdict for row in comparison.rows) for verdict in ("SLOWER", "faster"))
    judged = sum(row.verdict != "not judged" for row in comparison.rows)
    yield f"{slower} slower, {faster} faster, {judged} of {len(comparison.rows)} judged"


def _row(row: Row) -> tuple[str, ...]:
    return (
        row.subject,
        str(row.batch),
        _number(row.old),
        _number(row.new),
        _ratio(row.old, row.new),
        _percent(row.old_share),
        _percent(row.new_share),
        _ratio(row.old_share, row.new_share),
        _BASES[row.basis],
        _percent(row.allowed),
        f"{row.verdict}: {row.reason}" if row.reason else row.verdict,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _ratio(old: float | None, new: float | None) -> str:
    return f"{new / old:.3f}" if old and new else "-"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
