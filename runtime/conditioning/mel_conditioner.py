"""From a whole mel to its conditioning: in one run of the conditioner, or block by block."""

from __future__ import annotations

import logging

import numpy as np

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.runtime.conditioning.block_conditioning import BlockConditioning, held_rows
from wavernn_trt.runtime.conditioning.incremental_blocks import CONVOLUTION_FRAMES
from wavernn_trt.runtime.conditioning.reach import measure_reach
from wavernn_trt.runtime.conditioning.windows import Conditioning, ConditioningWindows, FloatArray, WholeConditioning
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import Executor

logger = logging.getLogger(__name__)

WHOLE_FRAMES = 256
"""Mels of up to so many frames are conditioned in one run. Longer ones are conditioned in blocks where the conditioner
is a convolution: memory then does not grow with the mel."""


class MelConditioner:
    """Conditions whole mels with one model. How it does so depends on the model and the mel's length only."""

    def __init__(
        self, model: ModelConfig, audio: AudioConfig, windows: ConditioningWindows, executor: Executor
    ) -> None:
        """Prepares; the conditioner is not run yet.

        Args:
            model: the model.
            audio: its audio settings.
            windows: lays out what a chunk reads.
            executor: runs the conditioner.
        """
        self._model = model
        self._audio = audio
        self._windows = windows
        self._executor = executor
        self._reach: int | None = None
        self._whole = model.family == "univoc"  # a recurrent network in both directions: every row reads every frame

    def __call__(self, mel: FloatArray) -> Conditioning:
        """The conditioning of a mel [n_mels, N]; of a long one with its first block. The mel must not change later."""
        reach = self._measured_reach() if self._in_blocks(mel.shape[1]) else None
        if reach is None:
            return WholeConditioning(self._windows, self._executor.condition(mel))
        conditioning = BlockConditioning(self._windows, mel, self._executor.condition, reach)
        conditioning.hold(0)
        return conditioning

    def frames_of_a_run(self, frames: int) -> int:
        """How many frames of a mel of ``frames`` one run of the conditioner takes."""
        return CONVOLUTION_FRAMES if self._in_blocks(frames) else frames

    def nbytes(self, frames: int, streams: int) -> int:
        """Bytes that the rows of a mel take at most, while so many of its streams are decoded at a time."""
        rows = frames + 2 * self._model.margin
        if self._in_blocks(frames):
            rows = min(rows, CONVOLUTION_FRAMES + streams * held_rows(self._windows))
        return rows * self._model.columns * np.dtype(np.float32).itemsize

    def _in_blocks(self, frames: int) -> bool:
        return frames > WHOLE_FRAMES and not self._whole

    def _measured_reach(self) -> int | None:
        """Frames to either side that a row depends on; ``None`` where blocks cannot be used."""
        if self._reach is None:
            try:
                self._reach = max(measure_reach(self._model, self._audio.n_mels, self._executor.condition))
            except VocoderError as error:  # it reads too far, or its engine takes no mel as short as a block
                self._whole = True
                logger.warning("long mels are conditioned in one run, which takes memory in proportion: %s", error)
        return self._reach
