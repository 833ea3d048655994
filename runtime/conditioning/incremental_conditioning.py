"""Incremental conditioning of a mel whose frames are still arriving."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from wavernn_trt.runtime.conditioning.incremental_runs import IncrementalRuns, Run
from wavernn_trt.runtime.conditioning.mel_blocks import Condition
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, FloatArray, Want, Window
from wavernn_trt.runtime.errors import ExecutorError, VocoderError

_FEWEST_ROWS = 64


class IncrementalConditioning:
    """`Conditioning` of a mel to which one thread appends frames while other threads read.

    The appending thread calls `append`, `end` and `fail`; any thread may call `ready`, `window` and the properties. The
    bits of a row do not depend on how the mel is cut into pieces. Rows are released when no later chunk reads them.
    """

    def __init__(
        self,
        windows: ConditioningWindows,
        plan: IncrementalRuns,
        n_mels: int,
        condition: Condition,
        *,
        on_ready: Callable[[], None] | None = None,
        kept: int = 0,
    ) -> None:
        """Starts without frames.

        Args:
            windows: cuts the rows into windows of chunks.
            plan: plans the runs of the conditioner.
            n_mels: number of mel bins.
            condition: the conditioner; called by the appending thread.
            on_ready: called by the appending thread when more can be decoded, or the mel has ended.
            kept: number of frames whose rows are kept after decoding: an utterance of up to this many frames can be
                decoded again from its beginning.
        """
        self._windows = windows
        self._plan = plan
        self._condition = condition
        self._on_ready = on_ready
        self._kept = kept
        self._margin = windows.model.margin
        self._mel = RowBuffer(n_mels)  # [frames, n_mels]; used by the appending thread only
        self._done = 0  # number of final rows; used by the appending thread only
        self._changed = threading.Condition()
        # The fields below are used with the lock.
        self._rows = RowBuffer(windows.model.columns)  # row `margin` belongs to the first frame
        self._frames = 0
        self._complete = plan.complete(0, False)
        self._ended = False
        self._error: BaseException | None = None
        self._stopped_at: int | None = None  # number of steps at which an error ended it
        self._window_first = 0  # first frame of the last window
        self._closed = False

    @property
    def steps(self) -> int | None:
        """See `Conditioning`; after an error, the steps that can be decoded from the frames before it."""
        with self._changed:
            return self._steps()

    @property
    def error(self) -> BaseException | None:
        with self._changed:
            return self._error

    @property
    def nbytes(self) -> int:
        """Bytes of memory used by frames and rows."""
        with self._changed:
            return self._mel.nbytes + self._rows.nbytes

    @property
    def least_ahead(self) -> int:
        """Minimum number of frames to accept after the first frame of the last window, to decode the next chunk."""
        return self._windows.rows + self._windows.steps // self._windows.hop_length + self._plan.lookahead + 2

    def ready(self, start: int) -> bool:
        """See `Conditioning`. Ends the mel with an error if a restarted decoding needs rows that were released."""
        with self._changed:
            if start // self._windows.hop_length < self._rows.released and self._stopped_at is None:
                self._error = ExecutorError(
                    "a stream with an arriving mel cannot be decoded again from its beginning: its first frames are no "
                    "longer kept; vocode the rest as a new stream"
                )
                self._stopped_at = start
                self._ended = True
            total = self._steps()
            if total is not None:
                return start < total
            return start + self._windows.steps <= self._known_steps()

    def window(self, start: int) -> Window:
        """See `Conditioning`; `ready` must have been true."""
        first = start // self._windows.hop_length
        with self._changed:
            rows = self._rows.take(first, first + self._windows.rows)
            total = self._steps()
            self._window_first = max(self._window_first, first)
            self._rows.release(self._window_first - self._kept)
            self._changed.notify_all()
        return self._windows.lay_out(rows, start, total)

    def for_stream(self, want: Want | None) -> IncrementalConditioning:
        """See `Conditioning`; the appending thread computes the rows."""
        return self

    def append(self, frames: FloatArray) -> None:
        """Adds frames [n_mels, k], runs the conditioner where enough frames exist, and publishes the rows.

        Raises:
            Exception: from the conditioner, after a call of `fail`.
        """
        if not frames.shape[1] or self._is_over():
            return
        self._mel.write(self._mel.stop, frames.T)
        self._publish(ended=False)

    def end(self) -> None:
        """Ends the mel; a mel without frames is an error."""
        if not self._mel.stop:
            self.fail(VocoderError("mel: found no frames, expected at least one"))
        elif not self._is_over():
            self._publish(ended=True)

    def fail(self, error: BaseException) -> None:
        """Ends the mel with an error, which is raised after the samples that can be decoded from the frames so far.

        Args:
            error: becomes `error`, unless the mel has ended.
        """
        with self._changed:
            if not self._ended:
                self._error = error
                self._stopped_at = self._known_steps()
                self._ended = True
        self._notify()

    def close(self) -> None:
        """Ends `wait_for_room`: no further window is needed. Callable from any thread, more than once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_for_room(self, ahead: int) -> bool:
        """Waits until fewer than ``ahead`` frames follow the first frame of the last window.

        Returns:
            Whether more frames can be appended: false after `close` or the end of the mel.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ended or self._frames - self._window_first < ahead)
            return not (self._closed or self._ended)

    def _publish(self, *, ended: bool) -> None:
        """Runs the conditioner where enough frames exist, without the lock, and then publishes the rows."""
        frames = self._mel.stop
        try:
            fresh = [
                (run.rows.start, condition_run(run, self._margin, self._mel, self._condition))
                for run in self._plan.runs(self._done, frames, ended)
            ]
        except BaseException as error:
            self.fail(error if isinstance(error, VocoderError) else _executor_error(error))
            raise
        with self._changed:
            for first, rows in fresh:
                self._rows.write(first + self._margin, rows)
            self._frames = frames
            self._complete = self._plan.complete(frames, ended)
            self._ended = self._ended or ended
        self._done = min(self._complete)
        self._mel.release(self._plan.reads_from(self._done))
        self._notify()

    def _is_over(self) -> bool:
        with self._changed:
            return self._ended or self._closed

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._on_ready is not None:
            self._on_ready()

    def _steps(self) -> int | None:
        if self._stopped_at is not None:
            return self._stopped_at
        return self._frames * self._windows.hop_length if self._ended else None

    def _known_steps(self) -> int:
        """Returns the number of steps whose rows are final."""
        frames = min(
            complete - (self._margin if group.expansion == "kernel" else 0)
            for complete, group in zip(self._complete, self._windows.model.groups, strict=True)
        )
        return max(0, frames) * self._windows.hop_length


def _executor_error(error: BaseException) -> ExecutorError:
    wrapped = ExecutorError(f"the conditioner failed: {error}")
    wrapped.__cause__ = error
    return wrapped


class RowBuffer:
    """Buffer of numbered rows, written at the end and released from the beginning. Not thread-safe."""

    def __init__(self, columns: int) -> None:
        """Creates an empty buffer."""
        self._data = np.zeros((_FEWEST_ROWS, columns), np.float32)
        self._first = 0  # number of the first row in the array
        self.released = 0
        """Number of the first row that is not released."""
        self.stop = 0
        """Number after the last row written."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._data.nbytes

    def write(self, first: int, rows: FloatArray) -> None:
        """Writes rows [n, columns] from number ``first`` on; existing rows are overwritten."""
        stop = first + len(rows)
        if stop - self._first > len(self._data):
            self._make_room(stop)
        self._data[first - self._first : stop - self._first] = rows
        self.stop = max(self.stop, stop)

    def take(self, first: int, stop: int) -> FloatArray:
        """Returns a copy of rows [stop - first, columns]; zeros for rows not written or released."""
        taken = np.zeros((stop - first, self._data.shape[1]), np.float32)
        begin, end = max(first, self.released), min(stop, self.stop)
        if begin < end:
            taken[begin - first : end - first] = self._data[begin - self._first : end - self._first]
        return taken

    def release(self, before: int) -> None:
        """Releases the rows before number ``before``."""
        self.released = max(self.released, min(before, self.stop))

    def _make_room(self, stop: int) -> None:
        # Twice the size needed: each row is then copied once on average.
        kept = self.take(self.released, self.stop)
        capacity = max(_FEWEST_ROWS, 2 * (stop - self.released))
        self._data = np.zeros((capacity, self._data.shape[1]), np.float32)
        self._data[: len(kept)] = kept
        self._first = self.released


def condition_run(run: Run, margin: int, frames: RowBuffer, condition: Condition) -> FloatArray:
    """Makes one run of the conditioner.

    Args:
        run: frames to read and rows to return.
        margin: conditioning rows before the row of the first frame.
        frames: the mel, [frames, n_mels].
        condition: the conditioner.

    Returns:
        float32 [len(run.rows), columns].
    """
    rows = condition(np.ascontiguousarray(frames.take(run.first, run.stop).T))
    skipped = run.rows.start - run.first + margin
    return rows[skipped : skipped + len(run.rows)]
