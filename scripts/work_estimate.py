"""How much speech is left of a job, from the headers of some of its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.files.input_files import check_regular, is_mel
from wavernn_trt.runtime.files.mel_file import mel_frames
from wavernn_trt.runtime.files.output_files import is_finished
from wavernn_trt.runtime.files.recording import recording_seconds
from wavernn_trt.runtime.files.standard_streams import is_input_stream
from wavernn_trt.runtime.jobs.plan import Job

_SAMPLE = 256
"""Headers that are read. Of files whose lengths spread by half, the mean is then known to three per cent."""
_NEXT = 16
"""Of the sample, what lies ahead says how long the rest is; near the end, at least so many do."""


class WorkEstimate:
    """Seconds of speech left, where jobs end about in their order."""

    def __init__(
        self, jobs: Sequence[Job], audio: AudioConfig, *, overwrite: bool, going_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Reads headers.

        Args:
            jobs: all of them.
            audio: says what a mel's frame lasts.
            overwrite: whether jobs whose output is there are work too.
            going_on: asked between two headers; on its no, the rest is not read, and `complete` is false.
        """
        self._count = len(jobs)
        places = np.unique(np.linspace(0, self._count - 1, min(self._count, _SAMPLE)).astype(np.int64))
        seconds = []
        for place in places.tolist():
            if not going_on():
                break
            job = jobs[place]
            there = not overwrite and is_finished(job.output)
            seconds.append(0.0 if there else estimate_seconds(job.input, audio))
        self.complete = len(seconds) == len(places)
        """Whether `left` may be asked."""
        self._places = places
        self._seconds = np.array(seconds)
        self._exact = self._count <= _SAMPLE

    def left(self, ended: int) -> float:
        """Seconds of the jobs behind the first ``ended``."""
        ahead = self._seconds[np.searchsorted(self._places, ended) :]
        if self._exact:
            return float(ahead.sum())
        if len(ahead) < _NEXT:
            ahead = self._seconds[-_NEXT:]
        return float(ahead.mean()) * (self._count - ended)


def estimate_seconds(path: Path, audio: AudioConfig) -> float:
    """Seconds of speech that a file holds by its header; 0 where it cannot be read, which will be reported in its turn.

    Args:
        path: a recording or a mel.
        audio: says what a mel's frame lasts.
    """
    if is_input_stream(path):
        return 0.0  # opening it would take from what is to be read
    try:
        check_regular(path)
        if is_mel(path):
            return float(mel_frames(path) * audio.hop_length / audio.sample_rate)
        return recording_seconds(path)
    except Exception:
        return 0.0
