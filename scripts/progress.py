"""The progress bar of ``vocode``: seconds of speech, with the real-time factor, on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.audio import MEL_SUFFIX, check_regular
from wavernn_trt.runtime.job_plan import Job
from wavernn_trt.runtime.jobs import JobResult


class ProgressBar:
    """A `Progress` for people."""

    def __init__(self, jobs: Sequence[Job], audio: AudioConfig, *, hidden: bool, overwrite: bool) -> None:
        """Estimates the work from the files' headers.

        Args:
            jobs: all of them.
            audio: the model's audio settings.
            hidden: show nothing.
            overwrite: whether jobs whose output is there are work too.
        """
        self._rate = audio.sample_rate
        self._files = len(jobs)
        self._closed = 0
        self._started = time.perf_counter()
        self._decoded = 0
        todo = [] if hidden else [job.input for job in jobs if overwrite or not os.path.isfile(job.output)]
        self._bar = tqdm(
            total=round(sum(estimate_seconds(path, audio) for path in todo), 1),
            disable=hidden,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}{postfix}]",
            desc=f"0/{self._files} files",
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,  # a log file needs no animation
        )

    def decoded(self, steps: int) -> None:
        """See `Progress`."""
        self._decoded += steps
        seconds = self._decoded / self._rate
        if self._bar.total is not None and self._bar.n + steps / self._rate > self._bar.total:
            self._bar.total = self._bar.n + steps / self._rate  # warm-up of folds, and headers that undersold
        self._bar.set_postfix_str(
            f"real-time factor {(time.perf_counter() - self._started) / seconds:.2f}", refresh=False
        )
        self._bar.update(steps / self._rate)

    def closed(self, result: JobResult) -> None:
        """See `Progress`."""
        self._closed += 1
        self._bar.set_description_str(f"{self._closed}/{self._files} files", refresh=False)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()


def estimate_seconds(path: Path, audio: AudioConfig) -> float:
    """Seconds of speech that a file holds by its header; 0 where it cannot be read, which will be reported in its turn.

    Args:
        path: a recording or a mel.
        audio: says what a mel's frame lasts.
    """
    try:
        check_regular(path)
        if path.suffix.lower() == MEL_SUFFIX:
            frames = np.load(path, mmap_mode="r", allow_pickle=False).shape[-1]
            return float(frames * audio.hop_length / audio.sample_rate)
        import soundfile

        return float(soundfile.info(path).duration)
    except Exception:
        return 0.0
