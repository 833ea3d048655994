"""Conditioning of a whole mel: in one run of the conditioner, or block by block."""

from __future__ import annotations

import logging
import threading
from functools import partial
from weakref import WeakValueDictionary

import numpy as np

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.runtime.conditioning.mel_blocks import (
    BLOCK_FRAMES,
    BlockConditioner,
    ConditionsBlocks,
    ConvolutionBlocks,
    MelBlocks,
    RecurrentBlocks,
    receptive_field,
)
from wavernn_trt.runtime.conditioning.windows import (
    Conditioning,
    ConditioningWindows,
    FloatArray,
    Want,
    WholeConditioning,
    Window,
)
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import Executor

logger = logging.getLogger(__name__)

WHOLE_FRAMES = 256
"""Maximum frames of a mel that a convolutional conditioner processes in one run. Longer mels are processed in blocks:
memory then does not grow with the mel."""
WHOLE_RECURRENT_FRAMES = 4096
"""The same for a bidirectional recurrent conditioner, where blocks cost four runs over the mel: about a minute of
speech, whose rows take 12 MiB for the shipped voice and 42 MiB for the published size."""
HeldBlocks = WeakValueDictionary[int, FloatArray]
"""Rows of the blocks that any stream of an utterance currently holds, by block number."""


class MelConditioner:
    """Conditions whole mels with one model. The method depends only on the model and the length of the mel."""

    def __init__(
        self, model: ModelConfig, audio: AudioConfig, windows: ConditioningWindows, executor: Executor
    ) -> None:
        """Does not run the conditioner.

        Args:
            model: the model's configuration.
            audio: its audio settings.
            windows: cuts the rows into windows of chunks.
            executor: runs the conditioner.
        """
        self._model = model
        self._audio = audio
        self._windows = windows
        self._executor = executor
        self._field: int | None = None
        self._recurrent = model.family == "univoc"  # every row reads every frame
        self._no_blocks = ""  # reason why blocks cannot be used, until it is logged
        self._block_conditioner: BlockConditioner | None = None
        if self._recurrent and isinstance(executor, ConditionsBlocks):
            self._block_conditioner = executor.block_conditioner
            if self._block_conditioner is None:
                self._no_blocks = "the model directory has no conditioner_blocks.onnx; export the checkpoint again"
        self._whole = self._recurrent and self._block_conditioner is None

    def __call__(self, mel: FloatArray) -> Conditioning:
        """Conditions a mel [n_mels, N], a long one up to its first block. The mel must not change afterwards."""
        blocks = self._blocks(mel) if self._in_blocks(mel.shape[1]) else None
        if self._no_blocks and self._long(mel.shape[1]):
            logger.warning(
                "long mels are conditioned in one run, with memory proportional to their length: %s", self._no_blocks
            )
            self._no_blocks = ""
        if blocks is None:
            return WholeConditioning(self._windows, self._executor.condition(mel))
        conditioning = BlockConditioning(self._windows, blocks)
        conditioning.hold(0)
        return conditioning

    def frames_of_a_run(self, frames: int) -> int:
        """Returns the frames that are conditioned before the first block of a mel of ``frames`` is ready."""
        return BLOCK_FRAMES if self._in_blocks(frames) and not self._recurrent else frames

    def nbytes(self, frames: int, streams: int) -> int:
        """Returns the maximum bytes of a mel's rows while ``streams`` of its streams are decoded at a time."""
        rows = frames + 2 * self._model.margin
        if self._in_blocks(frames):
            rows = min(rows, BLOCK_FRAMES + streams * held_rows(self._windows))
        return rows * self._model.columns * np.dtype(np.float32).itemsize

    def _in_blocks(self, frames: int) -> bool:
        return self._long(frames) and not self._whole

    def _long(self, frames: int) -> bool:
        return frames > (WHOLE_RECURRENT_FRAMES if self._recurrent else WHOLE_FRAMES)

    def _blocks(self, mel: FloatArray) -> MelBlocks | None:
        """Returns a mel's blocks; ``None`` if they cannot be used."""
        if self._block_conditioner is not None:
            return RecurrentBlocks(mel, self._block_conditioner)
        if self._field is None:
            try:
                self._field = max(receptive_field(self._model, self._audio.n_mels, self._executor.condition))
            except VocoderError as error:  # too large a receptive field, or an engine that needs longer mels
                self._whole = True
                self._no_blocks = str(error)
                return None
        return ConvolutionBlocks(mel, self._executor.condition, self._field, self._model.margin)


class BlockConditioning:
    """`Conditioning` whose rows are computed block by block.

    A stream reads forward and holds the blocks of its last window and the next block. Streams of one utterance (folds)
    share the blocks that they hold.
    """

    error: BaseException | None = None

    def __init__(
        self,
        windows: ConditioningWindows,
        blocks: MelBlocks,
        *,
        shared: HeldBlocks | None = None,
        want: Want | None = None,
    ) -> None:
        """Does not compute a block.

        Args:
            windows: cuts the rows into windows of chunks.
            blocks: computes the rows of blocks.
            shared: blocks held by streams of the same utterance; ``None`` for the first.
            want: see `for_stream`.
        """
        self._windows = windows
        self._blocks = blocks
        self._frames = blocks.frames
        self._shared = HeldBlocks() if shared is None else shared
        self._want = want
        self._lock = threading.Lock()
        self._held: dict[int, FloatArray] = {}  # with the lock
        self._requested: set[int] = set()  # with the lock: blocks whose computation is queued
        self.steps: int | None = self._frames * windows.hop_length

    def for_stream(self, want: Want | None) -> BlockConditioning:
        """See `Conditioning`. The copy holds its own blocks; without ``want``, `window` computes them."""
        return BlockConditioning(self._windows, self._blocks, shared=self._shared, want=want)

    @property
    def held(self) -> int:
        """Rows that this stream holds."""
        with self._lock:
            return sum(map(len, self._held.values()))

    def hold(self, number: int) -> None:
        """Holds a block; computes it unless a stream of the utterance holds it already."""
        rows = self._shared.get(number)
        if rows is None:
            rows = self._shared[number] = self._blocks.rows(number)
        with self._lock:
            self._held[number] = rows
            self._requested.discard(number)

    def ready(self, start: int) -> bool:
        """See `Conditioning`. Queues missing blocks with ``want``, including the one after the window."""
        if self._want is None:
            return True
        needed = self._blocks_read(start)
        with self._lock:
            self._release(needed.start)
            missing = {number for number in range(needed.start, needed.stop + 1) if self._exists(number)}
            missing -= self._held.keys() | self._requested
            for number in list(missing):
                if (rows := self._shared.get(number)) is not None:
                    self._held[number] = rows
                    missing.remove(number)
            self._requested |= missing
            complete = all(number in self._held for number in needed)
        for number in sorted(missing):
            self._want(partial(self.hold, number))
        return complete

    def window(self, start: int) -> Window:
        """See `Conditioning`; releases the blocks before the window."""
        needed = self._blocks_read(start)
        with self._lock:
            missing = [number for number in needed if number not in self._held]
        for number in missing:
            self.hold(number)
        with self._lock:
            self._release(needed.start)
            blocks = [self._held[number] for number in needed]
        # Row r belongs to frame r - margin; rows outside the mel are zero.
        first = start // self._windows.hop_length - self._windows.model.margin
        rows = np.zeros((self._windows.rows, self._windows.model.columns), np.float32)
        for number, block in zip(needed, blocks, strict=True):
            at = number * BLOCK_FRAMES - first
            begin, end = max(0, at), min(len(rows), at + len(block))
            rows[begin:end] = block[begin - at : end - at]
        return self._windows.lay_out(rows, start, self.steps)

    def _release(self, before: int) -> None:
        self._held = {number: rows for number, rows in self._held.items() if number >= before}

    def _blocks_read(self, start: int) -> range:
        """Returns the numbers of the blocks that the window of the chunk at ``start`` reads."""
        first = start // self._windows.hop_length - self._windows.model.margin
        stop = min(first + self._windows.rows, self._frames)
        return range(max(0, first) // BLOCK_FRAMES, -(-stop // BLOCK_FRAMES))

    def _exists(self, number: int) -> bool:
        return number * BLOCK_FRAMES < self._frames


def held_rows(windows: ConditioningWindows) -> int:
    """Returns the maximum rows that one stream holds: the blocks of a window, and the next one."""
    return (2 + -(-(windows.rows - 1) // BLOCK_FRAMES)) * BLOCK_FRAMES
