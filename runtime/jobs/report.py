"""Reports: JSON lines, one for each file as it ends, readable also after a run that was killed."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from wavernn_trt.export.model_directory import MANIFEST, file_sha256
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.output_files import try_lock
from wavernn_trt.runtime.jobs.result import JobResult, JobsStopped

logger = logging.getLogger(__name__)

REPORT_SUFFIX = ".jsonl"
_BLOCK = 1 << 16
"""Bytes that are read at a time while the last whole line is looked for."""


def result_row(result: JobResult, sample_rate: int) -> dict[str, Any]:
    """The row of a job that has ended, in the JSON of reports and documents.

    Args:
        result: of the job.
        sample_rate: Hz, of what was written.
    """
    seconds = result.samples / sample_rate
    return {
        "input": str(result.job.input),
        "output": str(result.job.output),
        "status": result.status,
        "seed": result.job.seed,
        "seconds": seconds,
        "samples": result.samples,
        "sample_rate": sample_rate,
        "rtf": real_time_factor(result.elapsed, seconds),
        "error": result.error,
        "warnings": list(result.warnings),
    }


def real_time_factor(elapsed: float, seconds: float) -> float | None:
    """Seconds of work a second of speech; ``None`` where there is no speech."""
    return round(elapsed / seconds, 4) if seconds else None


def model_fingerprint(model: Path) -> str | None:
    """The SHA-256 of a model directory's manifest, which holds all other files' hashes; ``None`` for a checkpoint."""
    manifest = model / MANIFEST
    return file_sha256(manifest) if manifest.is_file() else None


def check_report(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuses a name that a report cannot have, touching nothing.

    Args:
        path: the report's.
        inputs: what is read, and must not be written into.

    Raises:
        VocoderError: it does not end in ``.jsonl``, is an input, or is there and no file.
    """
    if path.suffix.lower() != REPORT_SUFFIX:
        raise VocoderError(f"report {path}: expected a name that ends in {REPORT_SUFFIX}")
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise VocoderError(f"report {path}: found one of the inputs, a manifest; name another file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise VocoderError(f"report {path}: found a folder, pipe or device, expected a file; name another")


class JobReport:
    """A file of JSON lines. A later run appends to it; of what a killed one has left, the torn last line is dropped."""

    def __init__(self, path: Path, common: Mapping[str, Any]) -> None:
        """Opens the file, and makes it if need be.

        Args:
            path: ends in ``.jsonl``.
            common: what every line has besides, such as the model; a run's own name is added.

        Raises:
            VocoderError: it is another file than a report, or another process writes it.
            OSError: it cannot be written.
        """
        check_report(path)
        self._path = path
        self._common = {"run": uuid.uuid4().hex[:12], **common}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            if try_lock(self._file.fileno()) is False:
                raise VocoderError(f"report {path}: another process writes it; name another file")
            self._repair()
        except BaseException:
            self._file.close()
            raise

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a line, whole or not at all.

        Args:
            row: see `result_row`.

        Raises:
            JobsStopped: it cannot be written, and the row of a job would be lost.
        """
        line = json.dumps({**row, **self._common}).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(line):  # writing the rest of a line that did not fit raises the reason
                written += self._file.write(line[written:])
        except OSError as error:
            self._file.truncate(end)
            raise JobsStopped(f"report {self._path}: {error.strerror}; make room for it, or name another") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> JobReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _repair(self) -> None:
        """Makes the file end with a whole line."""
        size = self._file.seek(0, os.SEEK_END)
        if not size:
            return
        self._file.seek(0)
        if self._file.read(1) != b"{":
            raise VocoderError(f"report {self._path}: found a file that holds no JSON lines; name another")
        end = self._behind_last_newline(size)
        self._file.seek(end)
        torn = self._file.read(size - end)
        if not torn:
            return
        try:
            json.loads(torn)
        except ValueError:
            self._file.truncate(end)
            logger.warning("%s: its last line was torn when a run was killed, and is dropped", self._path)
        else:
            self._file.write(b"\n")

    def _behind_last_newline(self, size: int) -> int:
        end = size
        while end:
            start = max(0, end - _BLOCK)
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0
