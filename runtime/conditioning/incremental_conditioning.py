"""The conditioning of a mel whose frames are still arriving."""

from __future__ import annotations

import threading
from collections.abc import Callable

from wavernn_trt.runtime.conditioning.incremental_blocks import ConditioningBlocks, condition_run
from wavernn_trt.runtime.conditioning.receptive_field import Condition
from wavernn_trt.runtime.conditioning.sliding_rows import SlidingRows
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, FloatArray, Want, Window
from wavernn_trt.runtime.errors import ExecutorError, VocoderError


class GrowingConditioning:
    """A `Conditioning` that one thread feeds and another asks.

    `append`, `end` and `fail` are the feeding thread's; `ready`, `window` and the properties are anyone's.
    Rows have the same bits however the mel is cut into pieces. They are let go when no coming chunk can read them.
    """

    def __init__(
        self,
        windows: ConditioningWindows,
        blocks: ConditioningBlocks,
        n_mels: int,
        condition: Condition,
        *,
        on_ready: Callable[[], None] | None = None,
        kept: int = 0,
    ) -> None:
        """Begins without a frame.

        Args:
            windows: lays out what a chunk reads.
            blocks: how the model's mels are conditioned in blocks.
            n_mels: bins of a mel.
            condition: the conditioner; called by the feeding thread, and so behind a lock where others call it too.
            on_ready: called by the feeding thread when more can be decoded, or nothing more will come.
            kept: frames whose rows are kept though their samples are drawn, so that an utterance that is no longer can
                be decoded again from its beginning.
        """
        self._windows = windows
        self._blocks = blocks
        self._condition = condition
        self._on_ready = on_ready
        self._kept = kept
        self._margin = windows.model.margin
        self._mel = SlidingRows(n_mels)  # [frames, n_mels]: the feeding thread's alone
        self._done = 0  # rows that no further frame will change; likewise
        self._changed = threading.Condition()
        # From here on with the lock.
        self._rows = SlidingRows(windows.model.columns)  # row `margin` is the first frame's
        self._frames = 0
        self._complete = blocks.complete(0, False)
        self._ended = False
        self._error: BaseException | None = None
        self._stopped_at: int | None = None  # where an error ended it
        self._asked = 0  # the first frame of the last window
        self._closed = False

    @property
    def steps(self) -> int | None:
        """See `Conditioning`; where the mel broke off, the steps that the frames before allow."""
        with self._changed:
            return self._steps()

    @property
    def error(self) -> BaseException | None:
        """See `Conditioning`."""
        with self._changed:
            return self._error

    @property
    def nbytes(self) -> int:
        """Bytes of memory that frames and rows take."""
        with self._changed:
            return self._mel.nbytes + self._rows.nbytes

    @property
    def least_ahead(self) -> int:
        """Frames that must be let in beyond the last window's first, so that the next chunk can be decoded."""
        return self._windows.rows + self._windows.steps // self._windows.hop_length + self._blocks.lookahead + 2

    def ready(self, start: int) -> bool:
        """See `Conditioning`. Where rows were let go that a second decoding would need, it ends, with an error."""
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
        """See `Conditioning`; `ready` has said that it can be cut."""
        first = start // self._windows.hop_length
        with self._changed:
            rows = self._rows.take(first, first + self._windows.rows)
            total = self._steps()
            self._asked = max(self._asked, first)
            self._rows.release(self._asked - self._kept)
            self._changed.notify_all()
        return self._windows.lay_out(rows, start, total)

    def for_stream(self, want: Want | None) -> GrowingConditioning:
        """See `Conditioning`; the thread that feeds it does the work."""
        return self

    def append(self, frames: FloatArray) -> None:
        """Adds frames [n_mels, k], and conditions what they allow; rows are published when all of it is done.

        Raises:
            Exception: the conditioner's; it has been told to `fail` by then.
        """
        if not frames.shape[1] or self._is_over():
            return
        self._mel.write(self._mel.stop, frames.T)
        self._publish(ended=False)

    def end(self) -> None:
        """There will be no more frames. That there were none at all is an error."""
        if not self._mel.stop:
            self.fail(VocoderError("mel: found no frames, expected at least one"))
        elif not self._is_over():
            self._publish(ended=True)

    def fail(self, error: BaseException) -> None:
        """There will be no more frames, because of an error: what the frames before allow is decoded, then it is told.

        Args:
            error: becomes `error`, unless there is one already.
        """
        with self._changed:
            if not self._ended:
                self._error = error
                self._stopped_at = self._known_steps()
                self._ended = True
        self._tell()

    def close(self) -> None:
        """Nobody will ask any more; whoever waits for room goes on. Any thread may call it, and more than once."""
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
        """Conditions what the frames allow, without the lock, and then has it known."""
        frames = self._mel.stop
        try:
            fresh = [
                (run.rows.start, condition_run(run, self._margin, self._mel, self._condition))
                for run in self._blocks.runs(self._done, frames, ended)
            ]
        except BaseException as error:
            self.fail(error if isinstance(error, VocoderError) else _executor_error(error))
            raise
        with self._changed:
            for first, rows in fresh:
                self._rows.write(first + self._margin, rows)
            self._frames = frames
            self._complete = self._blocks.complete(frames, ended)
            self._ended = self._ended or ended
        self._done = min(self._complete)
        self._mel.release(self._blocks.reads_from(self._done))
        self._tell()

    def _is_over(self) -> bool:
        with self._changed:
            return self._ended or self._closed

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if self._on_ready is not None:
            self._on_ready()

    def _steps(self) -> int | None:
        if self._stopped_at is not None:
            return self._stopped_at
        return self._frames * self._windows.hop_length if self._ended else None

    def _known_steps(self) -> int:
        """Steps whose rows are final, also if the mel goes on."""
        frames = min(
            complete - (self._margin if group.expansion == "kernel" else 0)
            for complete, group in zip(self._complete, self._windows.model.groups, strict=True)
        )
        return max(0, frames) * self._windows.hop_length


def _executor_error(error: BaseException) -> ExecutorError:
    wrapped = ExecutorError(f"the conditioner failed: {error}")
    wrapped.__cause__ = error
    return wrapped
