"""The progress bar on stderr: seconds of speech done and in total, the real-time factor and the time left."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.files.file_kinds import check_regular
from wavernn_trt.runtime.files.input_files import is_mel
from wavernn_trt.runtime.files.mel_file import mel_frames
from wavernn_trt.runtime.files.output_files import is_finished
from wavernn_trt.runtime.files.recording import recording_seconds
from wavernn_trt.runtime.files.standard_streams import is_input_stream
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobResult, Progress
from wavernn_trt.scripts import PROGRAM

_SAMPLE = 256
"""Largest number of headers read. If lengths spread by half, the mean is then known to three per cent."""
_NEXT = 16
"""Smallest number of headers that the estimate of the remaining work uses, near the end of the run."""
_RECENT_SECONDS = 30.0
"""Interval over which the real-time factor is measured, as the load of a machine changes."""
_MOMENTS = 64
"""Number of measurements kept of that interval."""
_PATIENCE = 2.0
"""Seconds that the end of a run waits for headers; exceeded only on a slow file system."""


def job_bar(jobs: Sequence[Job], audio: AudioConfig, *, hidden: bool, overwrite: bool) -> ProgressBar:
    """Returns a bar of jobs, titled with the number of files that have ended.

    Args:
        jobs: all jobs.
        audio: the model's audio settings.
        hidden: show nothing.
        overwrite: whether jobs are run although their output exists.
    """
    return ProgressBar(len(jobs), seconds_of_jobs(jobs, audio, overwrite=overwrite), audio.sample_rate, hidden=hidden)


def file_bar(
    title: str, files: Iterable[Path], audio: AudioConfig, *, limit: float | None = None, hidden: bool = False
) -> ProgressBar:
    """Returns a bar of recordings or mels.

    Args:
        title: text before the bar.
        files: to process.
        audio: the model's audio settings.
        limit: largest number of seconds processed of each file.
        hidden: show nothing.
    """
    paths = list(files)

    def seconds_of(place: int) -> float:
        seconds = estimate_seconds(paths[place], audio)
        return seconds if limit is None else min(seconds, limit)

    return ProgressBar(len(paths), seconds_of, audio.sample_rate, title=title, hidden=hidden)


class ProgressBar(Progress):
    """A progress bar of seconds of speech. A thread draws it, so that a slow terminal or file system delays no work."""

    def __init__(
        self,
        count: int,
        seconds_of: Callable[[int], float],
        sample_rate: int,
        *,
        title: str | None = None,
        hidden: bool = False,
    ) -> None:
        """Starts the bar; the thread estimates the total.

        Args:
            count: number of files.
            seconds_of: returns the seconds of speech of a file, given its index.
            sample_rate: Hz, of decoded samples.
            title: text before the bar; ``None`` is the number of files that have ended.
            hidden: show nothing.
        """
        self._count = count
        self._seconds_of = seconds_of
        self._sample_rate = sample_rate
        self._title = title
        self._lock = threading.Lock()
        self._ended = 0
        self._steps = 0
        self._ended_seconds = 0.0  # of the files that have ended, without warm-up of folds
        self._estimate: WorkEstimate | None = None
        self._moments: deque[tuple[float, int]] = deque(maxlen=_MOMENTS)
        self._closed = threading.Event()
        self._closing = 0.0
        self._interval = 0.1 if sys.stderr.isatty() else 10.0  # a log file needs no animation
        self._bar = tqdm(
            total=0.0,
            disable=hidden,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}{postfix}]",
            desc=self._description(0),
            dynamic_ncols=True,
        )
        self._thread = threading.Thread(target=self._work, name="wavernn-trt progress", daemon=True)
        if not hidden:
            self._thread.start()

    def decoded(self, steps: int) -> None:
        with self._lock:
            self._steps += steps

    def closed(self, result: JobResult) -> None:
        with self._lock:
            self._ended += 1
            self._ended_seconds += result.samples / self._sample_rate

    def set_title(self, title: str) -> None:
        """Changes the text before the bar."""
        self._title = title

    def notice(self, message: str) -> None:
        """Prints a line on stderr above the bar, after the program's name."""
        tqdm.write(f"{PROGRAM}: {message}", file=sys.stderr)

    def close(self) -> None:
        """Stops the bar; it stays visible."""
        self._closing = time.monotonic()
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bar.close()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        self._draw()
        estimate = WorkEstimate(self._count, self._seconds_of, self._is_patient)
        self._estimate = estimate if estimate.complete else None
        while not self._closed.wait(self._interval):
            self._draw()
        self._draw()

    def _is_patient(self) -> bool:
        return not self._closed.is_set() or time.monotonic() - self._closing < _PATIENCE

    def _description(self, ended: int) -> str:
        return f"{ended}/{self._count} files" if self._title is None else self._title

    def _draw(self) -> None:
        now = time.monotonic()
        with self._lock:
            ended, steps, ended_seconds = self._ended, self._steps, self._ended_seconds
        seconds = steps / self._sample_rate
        factor = self._real_time_factor(now, steps)
        self._bar.set_description_str(self._description(ended), refresh=False)
        postfix = [] if factor is None else [f"real-time factor {factor:.2f}"]
        if self._estimate is not None or ended == self._count:
            begun = max(0.0, seconds - ended_seconds)  # of files that have not ended
            left = max(0.0, self._estimate.left(ended) - begun) if self._estimate else 0.0
            self._bar.n, self._bar.total = seconds, seconds + left
            postfix += [] if factor is None else [f"{tqdm.format_interval(left * factor)} left"]
        self._bar.set_postfix_str(", ".join(postfix), refresh=False)
        self._bar.refresh()

    def _real_time_factor(self, now: float, steps: int) -> float | None:
        """Returns the recent time per second of speech."""
        if not self._moments or now - self._moments[-1][0] >= _RECENT_SECONDS / _MOMENTS:
            self._moments.append((now, steps))
        while len(self._moments) > 2 and now - self._moments[0][0] > _RECENT_SECONDS:
            self._moments.popleft()
        began, before = self._moments[0]
        return (now - began) * self._sample_rate / (steps - before) if steps > before else None


class WorkEstimate:
    """Estimates the remaining seconds of speech from a sample of the headers; files end about in order."""

    def __init__(
        self, count: int, seconds_of: Callable[[int], float], going_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Reads headers.

        Args:
            count: number of files.
            seconds_of: returns the seconds of speech of a file, given its index.
            going_on: called before each header; if it returns False, reading stops, and `complete` is False.
        """
        self._count = count
        places = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
        seconds = []
        for place in places.tolist():
            if not going_on():
                break
            seconds.append(seconds_of(place))
        self.complete = len(seconds) == len(places)
        """Whether all headers were read, as `left` needs."""
        self._places = places
        self._seconds = np.array(seconds)

    def left(self, ended: int) -> float:
        """Returns the seconds of all files after the first ``ended``."""
        ahead = self._seconds[np.searchsorted(self._places, ended) :]
        if self._count <= _SAMPLE:
            return float(ahead.sum())
        if len(ahead) < _NEXT:
            ahead = self._seconds[-_NEXT:]
        return float(ahead.mean()) * (self._count - ended)


def seconds_of_jobs(jobs: Sequence[Job], audio: AudioConfig, *, overwrite: bool) -> Callable[[int], float]:
    """Returns a function: index of a job -> its seconds of speech, 0 if its output exists and is kept."""

    def seconds_of(number: int) -> float:
        job = jobs[number]
        return 0.0 if not overwrite and is_finished(job.output) else estimate_seconds(job.input, audio)

    return seconds_of


def estimate_seconds(path: Path, audio: AudioConfig) -> float:
    """Returns the seconds of speech of a recording or mel by its header; 0 if it cannot be read."""
    if is_input_stream(path):
        return 0.0  # reading it here would consume the input
    try:
        check_regular(path)
        if is_mel(path):
            return float(mel_frames(path) * audio.hop_length / audio.sample_rate)
        return recording_seconds(path)
    except Exception:  # reported when the file is processed
        return 0.0
