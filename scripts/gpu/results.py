"""Files of a run on a GPU: results.json, choices.json and logs.tar.gz, each rewritten whole after every part."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavernn_trt.scripts.gpu.findings import Finding
from wavernn_trt.scripts.gpu.tools import write_atomically

RESULTS, CHOICES, LOGS = "results.json", "choices.json", "logs.tar.gz"
MOST_BYTES = 15 << 20
"""Of each file."""


def write_results(folder: Path, work: Path, about: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    """Writes all files.

    Args:
        folder: where to.
        work: the run's own folder; its files ending in ``.log``, ``.jsonl``, ``.json`` and ``.ncu-rep`` are archived.
        about: the run: date, seconds, command, machine.
        findings: of all parts.

    Raises:
        OSError: the folder cannot be written.
    """
    rows = [dataclasses.asdict(one) for one in findings]
    content = json.dumps({**about, "findings": rows}, indent=1, default=str).encode()
    if len(content) > MOST_BYTES:
        for row in rows:
            row["numbers"].pop("repeats", None)
        content = json.dumps({**about, "shortened": True, "findings": rows}, default=str).encode()
    write_atomically(folder / RESULTS, content)
    write_atomically(folder / CHOICES, json.dumps(choices(findings), indent=1).encode())
    write_atomically(folder / LOGS, _archive(work))


def choices(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Returns what was timed, fastest kernel of each model, precision and batch first."""
    rows = [
        {
            "model": one.numbers["model"],
            "precision": one.precision,
            "batch": one.numbers["batch"],
            "kernel": one.kernel,
            "groups": one.numbers["groups"],
            "steps": one.numbers["steps"],
            "step_us": one.numbers["step_us"],
        }
        for one in findings
        if one.numbers.get("kind") == "kernel"
    ]
    return sorted(rows, key=lambda row: (row["model"], row["precision"], row["batch"], row["step_us"]))


def _archive(work: Path) -> bytes:
    """Returns a tar.gz of the run's logs, smallest first; what would make it too large is listed instead."""
    suffixes = (".log", ".jsonl", ".json", ".ncu-rep")
    files = sorted((path for path in work.iterdir() if path.suffix in suffixes), key=lambda path: path.stat().st_size)
    buffer, left_out, total = io.BytesIO(), [], 0
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for path in files:
            size = path.stat().st_size
            # Logs shrink to a tenth at least; reports of profilers are compressed already.
            total += size if path.suffix == ".ncu-rep" else size // 10
            if total > MOST_BYTES:
                left_out.append(f"{path.name}: {size} bytes")
                continue
            archive.add(path, f"logs/{path.name}")
        if left_out:
            text = ("left out of this archive for their size:\n" + "\n".join(left_out) + "\n").encode()
            entry = tarfile.TarInfo("logs/LEFT_OUT.txt")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return buffer.getvalue()
