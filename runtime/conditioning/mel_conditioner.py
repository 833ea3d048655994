"""From a whole mel to its conditioning: in one run of the conditioner, or block by block."""

from __future__ import annotations

import logging

import numpy as np

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.runtime.conditioning.block_conditioning import BlockConditioning, held_rows
from wavernn_trt.runtime.conditioning.mel_blocks import (
    BLOCK_FRAMES,
    BlockConditioner,
    ConditionsBlocks,
    ConvolutionBlocks,
    MelBlocks,
    RecurrentBlocks,
)
from wavernn_trt.runtime.conditioning.receptive_field import receptive_field
from wavernn_trt.runtime.conditioning.windows import Conditioning, ConditioningWindows, FloatArray, WholeConditioning
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import Executor

logger = logging.getLogger(__name__)

WHOLE_FRAMES = 256
"""Mels of up to so many frames are conditioned in one run. Longer ones are conditioned in blocks where the conditioner
is a convolution: memory then does not grow with the mel."""
WHOLE_RECURRENT_FRAMES = 4096
"""The same where the conditioner is a recurrent network in both directions, of which blocks cost four runs over the
mel: a minute of speech, whose rows take 12 MiB for the shipped voice and 42 MiB for the published size."""


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
        self._field: int | None = None
        self._recurrent = model.family == "univoc"  # every row reads every frame
        self._no_blocks = ""  # why, until it has been logged
        self._block_conditioner: BlockConditioner | None = None
        if self._recurrent and isinstance(executor, ConditionsBlocks):
            self._block_conditioner = executor.block_conditioner
            if self._block_conditioner is None:
                self._no_blocks = "the model directory has no conditioner_blocks.onnx; export the checkpoint again"
        self._whole = self._recurrent and self._block_conditioner is None

    def __call__(self, mel: FloatArray) -> Conditioning:
        """The conditioning of a mel [n_mels, N]; of a long one with its first block. The mel must not change later."""
        blocks = self._blocks(mel) if self._in_blocks(mel.shape[1]) else None
        if self._no_blocks and self._long(mel.shape[1]):
            logger.warning(
                "long mels are conditioned in one run, which takes memory in proportion: %s", self._no_blocks
            )
            self._no_blocks = ""
        if blocks is None:
            return WholeConditioning(self._windows, self._executor.condition(mel))
        conditioning = BlockConditioning(self._windows, blocks)
        conditioning.hold(0)
        return conditioning

    def frames_of_a_run(self, frames: int) -> int:
        """How many frames of a mel of ``frames`` are conditioned before its first block is there."""
        return BLOCK_FRAMES if self._in_blocks(frames) and not self._recurrent else frames

    def nbytes(self, frames: int, streams: int) -> int:
        """Bytes that the rows of a mel take at most, while so many of its streams are decoded at a time."""
        rows = frames + 2 * self._model.margin
        if self._in_blocks(frames):
            rows = min(rows, BLOCK_FRAMES + streams * held_rows(self._windows))
        return rows * self._model.columns * np.dtype(np.float32).itemsize

    def _in_blocks(self, frames: int) -> bool:
        return self._long(frames) and not self._whole

    def _long(self, frames: int) -> bool:
        return frames > (WHOLE_RECURRENT_FRAMES if self._recurrent else WHOLE_FRAMES)

    def _blocks(self, mel: FloatArray) -> MelBlocks | None:
        """A mel's blocks; ``None`` where they cannot be used."""
        if self._block_conditioner is not None:
            return RecurrentBlocks(mel, self._block_conditioner)
        if self._field is None:
            try:
                self._field = max(receptive_field(self._model, self._audio.n_mels, self._executor.condition))
            except VocoderError as error:  # it reads too far, or its engine takes no mel as short as a block
                self._whole = True
                self._no_blocks = str(error)
                return None
        return ConvolutionBlocks(mel, self._executor.condition, self._field, self._model.margin)
