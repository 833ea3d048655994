"""The conditioning of a mel whose frames are still arriving."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.conditioning.incremental_runs import IncrementalRuns, Run
from wavernn_trt.runtime.conditioning.mel_blocks import Condition
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, FloatArray, Want, Window
from wavernn_trt.runtime.errors import ExecutorError, VocoderError

_FEWEST_ROWS = 64


class IncrementalConditioning:
    """A `Conditioning` of a mel to which one thread appends frames while others read.

    `append`, `end` and `fail` are for the appending thread; any thread may call `ready`, `window` and the properties.
    Rows have the same bits however the mel is cut into pieces. They are released when no later chunk can read them.
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
        """Begins without a frame.

        Args:
            windows: lays out what a chunk reads.
            plan: which runs of the conditioner to make.
            n_mels: bins of a mel.
            condition: the conditioner; called by the appending thread.
            on_ready: called by the appending thread when more can be decoded, or no more frames will come.
            kept: frames whose rows are kept after their samples are drawn: an utterance of up to so many frames can be
                decoded again from its beginning.
        """
        self._windows = windows
        self._plan = plan
        self._condition = condition
        self._on_ready = on_ready
        self._kept = kept
        self._margin = windows.model.margin
        self._mel = RowBuffer(n_mels)  # [frames, n_mels]; of the appending thread alone
        self._done = 0  # rows that no later frame will change; likewise
        self._changed = threading.Condition()
        # From here on with the lock.
        self._rows = RowBuffer(windows.model.columns)  # row `margin` is the first frame's
        self._frames = 0
        self._complete = plan.complete(0, False)
        self._ended = False
        self._error: BaseException | None = None
        self._stopped_at: int | None = None  # where an error ended it
        self._asked = 0  # the first frame of the last window
        self._closed = False

    @property
    def steps(self) -> int | None:
        """See `Conditioning`; after an error, the steps that the frames before it allow."""
        with self._changed:
            return self._steps()

    @property
    def error(self) -> BaseException | None:
        with self._changed:
            return self._error

    @property
    def nbytes(self) -> int:
        """Bytes of memory that frames and rows take."""
        with self._changed:
            return self._mel.nbytes + self._rows.nbytes

    @property
    def least_ahead(self) -> int:
        """Frames beyond the last window's first that must be accepted, so that the next chunk can be decoded."""
        return self._windows.rows + self._windows.steps // self._windows.hop_length + self._plan.lookahead + 2

    def ready(self, start: int) -> bool:
        """See `Conditioning`. Ends it with an error if a second decoding needs rows that were released."""
        with self._changed:
            if start // self._windows.hop_length < self._rows.released and self._stopped_at is None:
                self._error = ExecutorError(
                    "a stream whose mel arrives while it is decoded cannot be decoded again from its beginning, whose "
                    "frames are kept no longer; speak the rest as a new stream"
                )
                self._stopped_at = start
                self._ended = True
            total = self._steps()
            if total is not None:
                return start < total
            return start + self._windows.steps <= self._known_steps()

    def window(self, start: int) -> Window:
        """See `Conditioning`; `ready` was true."""
        first = start // self._windows.hop_length
        with self._changed:
            rows = self._rows.take(first, first + self._windows.rows)
            total = self._steps()
            self._asked = max(self._asked, first)
            self._rows.release(self._asked - self._kept)
            self._changed.notify_all()
        return self._windows.lay_out(rows, start, total)

    def for_stream(self, want: Want | None) -> IncrementalConditioning:
        """See `Conditioning`; the appending thread computes the rows."""
        return self

    def append(self, frames: FloatArray) -> None:
        """Adds frames [n_mels, k], conditions what they allow, and then publishes the rows.

        Raises:
            Exception: the conditioner's; `fail` has been called by then.
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
        """Ends the mel with an error, which is raised behind the samples that the frames so far allow.

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
        """Ends `wait_for_room`: no window is needed any more. Any thread may call it, and more than once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_for_room(self, ahead: int) -> bool:
        """Waits until fewer than ``ahead`` frames are there beyond the last window's first.

        Returns:
            Whether more are wanted: false once it is closed or over.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ended or self._frames - self._asked < ahead)
            return not (self._closed or self._ended)

    def _publish(self, *, ended: bool) -> None:
        """Conditions what the frames allow, without the lock, and then publishes the rows."""
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
        """Steps whose rows no later frame changes."""
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
    """Rows by number: written at the end and released at the beginning, so that memory is bounded. Not thread-safe."""

    def __init__(self, columns: int) -> None:
        """Starts empty."""
        self._data = np.zeros((_FEWEST_ROWS, columns), np.float32)
        self._first = 0  # the number of the row that the array begins with
        self.released = 0
        """Rows before this one are released."""
        self.stop = 0
        """One behind the last row that was written."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._data.nbytes

    def write(self, first: int, rows: FloatArray) -> None:
        """Writes rows [n, columns] from number ``first`` on, over rows of that number."""
        stop = first + len(rows)
        if stop - self._first > len(self._data):
            self._make_room(stop)
        self._data[first - self._first : stop - self._first] = rows
        self.stop = max(self.stop, stop)

    def take(self, first: int, stop: int) -> FloatArray:
        """A copy of rows [stop - first, columns]; zeros for rows that were never written or are released."""
        taken = np.zeros((stop - first, self._data.shape[1]), np.float32)
        begin, end = max(first, self.released), min(stop, self.stop)
        if begin < end:
            taken[begin - first : end - first] = self._data[begin - self._first : end - self._first]
        return taken

    def release(self, before: int) -> None:
        """Releases the rows before one; those that are released already stay so."""
        self.released = max(self.released, min(before, self.stop))

    def _make_room(self, stop: int) -> None:
        # Twice what is needed: a row is then copied once on average.
        kept = self.take(self.released, self.stop)
        capacity = max(_FEWEST_ROWS, 2 * (stop - self.released))
        self._data = np.zeros((capacity, self._data.shape[1]), np.float32)
        self._data[: len(kept)] = kept
        self._first = self.released


def condition_in_runs(plan: IncrementalRuns, model: ModelConfig, mel: FloatArray, condition: Condition) -> FloatArray:
    """The rows of a whole mel, as incremental conditioning computes them.

    Args:
        plan: of the model.
        model: its configuration.
        mel: [n_mels, N].
        condition: its conditioner.

    Returns:
        float32 [N + 2 * margin, columns]; rows outside the mel are zero.
    """
    frames = RowBuffer(len(mel))
    frames.write(0, mel.T)
    rows = np.zeros((mel.shape[1] + 2 * model.margin, model.columns), np.float32)
    for ended in (False, True):
        done = min(plan.complete(mel.shape[1], False)) if ended else 0
        for run in plan.runs(done, mel.shape[1], ended):
            rows[run.rows.start + model.margin : run.rows.stop + model.margin] = condition_run(
                run, model.margin, frames, condition
            )
    return rows


def condition_run(run: Run, margin: int, frames: RowBuffer, condition: Condition) -> FloatArray:
    """Runs the conditioner.

    Args:
        run: what to run.
        margin: rows of conditioning before the first frame's.
        frames: the mel, [frames, n_mels].
        condition: the conditioner.

    Returns:
        float32 [len(run.rows), columns].
    """
    rows = condition(np.ascontiguousarray(frames.take(run.first, run.stop).T))
    skipped = run.rows.start - run.first + margin
    return rows[skipped : skipped + len(run.rows)]
