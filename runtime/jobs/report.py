"""Reports of a run: JSON lines, one per job as it ends; a report is readable even after the run was killed."""

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
"""Bytes read at a time in the search for the last complete line."""


def result_row(result: JobResult, sample_rate: int) -> dict[str, Any]:
    """Returns the JSON row of a job that has ended; ``sample_rate`` is the output's, in Hz."""
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
    """Processing time per second of speech; ``None`` without speech."""
    return round(elapsed / seconds, 4) if seconds else None


def model_fingerprint(model: Path) -> str | None:
    """SHA-256 of a model directory's manifest, which contains the hashes of all files; ``None`` for a checkpoint."""
    manifest = model / MANIFEST
    return file_sha256(manifest) if manifest.is_file() else None


def check_report(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Checks the path of a report without creating it.

    Args:
        path: the report.
        inputs: files that the run reads; a report must not overwrite them.

    Raises:
        VocoderError: the path does not end in ``.jsonl``, is an input, or exists and is not a file.
    """
    if path.suffix.lower() != REPORT_SUFFIX:
        raise VocoderError(f"report {path}: expected a name that ends in {REPORT_SUFFIX}")
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise VocoderError(f"report {path}: found one of the inputs, a manifest; name another file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise VocoderError(f"report {path}: found a folder, pipe or device, expected a file; name another")


class JobReport:
    """Report file of JSON lines. Later runs append to it; an incomplete last line of a killed run is dropped."""

    def __init__(self, path: Path, common: Mapping[str, Any]) -> None:
        """Opens the file, or creates it.

        Args:
            path: ends in ``.jsonl``.
            common: fields added to every line, such as the model; an identifier of the run is added to them.

        Raises:
            VocoderError: the file is not a report, or another process writes it.
            OSError: the file cannot be written.
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
        """Appends a row (see `result_row`), completely or not at all.

        Raises:
            JobsStopped: the row cannot be written.
        """
        line = json.dumps({**row, **self._common}).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(line):  # after a partial write, writing the rest raises the error
                written += self._file.write(line[written:])
        except OSError as error:
            self._file.truncate(end)
            raise JobsStopped(f"report {self._path}: {error.strerror}; make room for it, or name another") from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JobReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _repair(self) -> None:
        """Makes the file end with a complete line."""
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
            logger.warning("%s: the last line is incomplete, since a run was killed; it is dropped", self._path)
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
