"""Files of a run on a GPU: results.json, choices.json and logs.tar.gz, rewritten after every part."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.plugins.choices import FILE, KERNELS, Row, write_rows
from wavernn_trt.scripts.gpu.cases import STANDARD
from wavernn_trt.scripts.gpu.findings import Finding, failed_kernels

RESULTS, CHOICES, LOGS = "results.json", FILE, "logs.tar.gz"
MOST_BYTES = 15 << 20
"""Largest size of each file."""


def write_results(folder: Path, work: Path, about: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    """Writes the files into ``folder``; the archive has the logs and reports of the temporary folder ``work``.

    Raises:
        OSError: the folder cannot be written.
    """
    rows = [dataclasses.asdict(one) for one in findings]
    content = json.dumps({**about, "findings": rows}, indent=1, default=str).encode()
    if len(content) > MOST_BYTES:
        for row in rows:
            row["numbers"].pop("repeats", None)
        content = json.dumps({**about, "shortened": True, "findings": rows}, default=str).encode()
    write_atomic(folder / RESULTS, content)
    write_rows(folder / CHOICES, choices(findings))
    write_atomic(folder / LOGS, _archive(work))


def timed_rows(findings: Sequence[Finding]) -> list[Finding]:
    """Returns timings of kernels without failures in their default build, the fastest of each batch first."""
    failed = failed_kernels(findings)
    rows = [
        one
        for one in findings
        if one.numbers.get("kind") == "kernel" and one.kernel in KERNELS and (one.kernel, one.precision) not in failed
    ]
    return sorted(
        rows,
        key=lambda one: (one.numbers["model"], one.precision, one.numbers["batch"], one.numbers["step_us"]),
    )


def choices(findings: Sequence[Finding]) -> list[Row]:
    """Returns the fastest kernels as rows that replace the runtime's table.

    Each timed batch has a row. Batches between two timed ones take the kernel of the larger one, with as few groups as
    possible.
    """
    sm = next((int(one.numbers["sm"]) for one in findings if one.name == "GPU" and "sm" in one.numbers), None)
    if sm is None:
        return []
    exact: list[Row] = []
    between: list[Row] = []
    rows = [one for one in timed_rows(findings) if one.numbers["model"] == next(iter(STANDARD))]
    for precision, group in itertools.groupby(rows, key=lambda one: one.precision):
        last = 0
        for batch, ranked in itertools.groupby(group, key=lambda one: int(one.numbers["batch"])):
            best = next(ranked)
            precisions: Any = (precision,)
            exact.append(Row((sm, sm), precisions, (batch, batch), best.kernel, int(best.numbers["groups"])))
            if last + 1 < batch:
                between.append(Row((sm, sm), precisions, (last + 1, batch - 1), best.kernel))
            last = batch
    return exact + between


def _archive(work: Path) -> bytes:
    """Returns a tar.gz of the run's logs, smallest first; files that would make it too large are only listed."""
    suffixes = (".log", ".jsonl", ".json", ".ncu-rep")
    files = sorted((path for path in work.iterdir() if path.suffix in suffixes), key=lambda path: path.stat().st_size)
    buffer, left_out, total = io.BytesIO(), [], 0
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for path in files:
            size = path.stat().st_size
            # Logs shrink at least to a tenth; profilers' reports are compressed already.
            total += size if path.suffix == ".ncu-rep" else size // 10
            if total > MOST_BYTES:
                left_out.append(f"{path.name}: {size} bytes")
                continue
            archive.add(path, f"logs/{path.name}")
        if left_out:
            text = ("too large for this archive:\n" + "\n".join(left_out) + "\n").encode()
            entry = tarfile.TarInfo("logs/LEFT_OUT.txt")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return buffer.getvalue()
