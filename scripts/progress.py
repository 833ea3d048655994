"""The progress bar of ``vocode``: files, seconds of speech, the real-time factor and the time left, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

from tqdm import tqdm

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobResult, Progress
from wavernn_trt.scripts.work_estimate import WorkEstimate

_RECENT_SECONDS = 30.0
"""Of which the real-time factor is told: a machine may be busier than it was an hour ago."""
_MOMENTS = 64
"""Moments that are kept of that time."""


_PATIENCE = 2.0
"""Seconds that the end of a run waits for what there was to do; only a slow file system takes longer."""


class ProgressBar(Progress):
    """A `Progress` for people. A thread of its own draws it, so that no terminal holds up the work."""

    def __init__(self, jobs: Sequence[Job], audio: AudioConfig, *, hidden: bool, overwrite: bool) -> None:
        """Begins; how much there is to do is found out meanwhile.

        Args:
            jobs: all of them.
            audio: the model's audio settings.
            hidden: show nothing.
            overwrite: whether jobs whose output is there are work too.
        """
        self._jobs = jobs
        self._audio = audio
        self._overwrite = overwrite
        self._lock = threading.Lock()
        self._ended = 0
        self._steps = 0
        self._spoken = 0.0  # seconds of the files that have ended, a fold's warm-up not included
        self._estimate: WorkEstimate | None = None
        self._moments: deque[tuple[float, int]] = deque(maxlen=_MOMENTS)
        self._closed = threading.Event()
        self._closing = 0.0
        self._interval = 0.1 if sys.stderr.isatty() else 10.0  # a log file needs no animation
        self._bar = tqdm(
            total=0.0,
            disable=hidden,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}{postfix}]",
            desc=f"0/{len(jobs)} files",
            dynamic_ncols=True,
        )
        self._thread = threading.Thread(target=self._work, name="wavernn-trt progress", daemon=True)
        if not hidden:
            self._thread.start()

    def decoded(self, steps: int) -> None:
        """See `Progress`."""
        with self._lock:
            self._steps += steps

    def closed(self, result: JobResult) -> None:
        """See `Progress`."""
        with self._lock:
            self._ended += 1
            self._spoken += result.samples / self._audio.sample_rate

    def say(self, message: str) -> None:
        """Prints a line on stderr, above the bar if there is one."""
        tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._closing = time.monotonic()
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bar.close()

    def _work(self) -> None:
        self._draw()
        estimate = WorkEstimate(self._jobs, self._audio, overwrite=self._overwrite, going_on=self._is_patient)
        self._estimate = estimate if estimate.complete else None
        while not self._closed.wait(self._interval):
            self._draw()
        self._draw()

    def _is_patient(self) -> bool:
        return not self._closed.is_set() or time.monotonic() - self._closing < _PATIENCE

    def _draw(self) -> None:
        now = time.monotonic()
        with self._lock:
            ended, steps, spoken = self._ended, self._steps, self._spoken
        seconds = steps / self._audio.sample_rate
        factor = self._real_time_factor(now, steps)
        self._bar.set_description_str(f"{ended}/{len(self._jobs)} files", refresh=False)
        postfix = [] if factor is None else [f"real-time factor {factor:.2f}"]
        if self._estimate is not None or ended == len(self._jobs):
            begun = max(0.0, seconds - spoken)  # of files that have not ended
            left = max(0.0, self._estimate.left(ended) - begun) if self._estimate else 0.0
            self._bar.n, self._bar.total = seconds, seconds + left
            postfix += [] if factor is None else [f"{tqdm.format_interval(left * factor)} left"]
        self._bar.set_postfix_str(", ".join(postfix), refresh=False)
        self._bar.refresh()

    def _real_time_factor(self, now: float, steps: int) -> float | None:
        """Of the last while, seconds of work a second of speech."""
        if not self._moments or now - self._moments[-1][0] >= _RECENT_SECONDS / _MOMENTS:
            self._moments.append((now, steps))
        while len(self._moments) > 2 and now - self._moments[0][0] > _RECENT_SECONDS:
            self._moments.popleft()
        began, before = self._moments[0]
        return (now - began) * self._audio.sample_rate / (steps - before) if steps > before else None
