"""Requests whose mel arrives in pieces, from an iterator."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.conditioning.incremental_conditioning import IncrementalConditioning
from wavernn_trt.runtime.conditioning.incremental_runs import incremental_runs
from wavernn_trt.runtime.conditioning.mel_blocks import BLOCK_FRAMES
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms, check_seed
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.health.loudness import Loudness
from wavernn_trt.runtime.health.output_guard import OutputGuard
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.scheduling.utterance import Utterance

READ_AHEAD_SECONDS = 2.0
"""Duration of the frames that are read in advance of decoding."""
_KEPT_SECONDS = 10.0
"""Duration of decoded conditioning that is kept: a stream of up to this length can restart when its lane is lost."""


class IncrementalRequests:
    """Checks requests whose mel arrives frame by frame, for one model and look-ahead."""

    def __init__(self, loaded: LoadedModel, lookahead: int | None) -> None:
        """Measures the conditioner's receptive field, by running it over short mels.

        Args:
            loaded: the model.
            lookahead: frames of look-ahead, for models that do not determine it.

        Raises:
            VocoderError: the model needs the whole mel, or does not support that look-ahead.
        """
        self._loaded = loaded
        self._runs = incremental_runs(loaded.model, loaded.audio.n_mels, loaded.executor.condition, lookahead)

    @property
    def lookahead(self) -> int:
        """Number of later frames that a frame's samples need."""
        return self._runs.lookahead

    def begin(
        self,
        pieces: Iterator[ArrayLike],
        seed: int,
        sample_rate: int | None,
        on_ready: Callable[[], None],
    ) -> tuple[Utterance, MelReader]:
        """Prepares one utterance.

        Args:
            pieces: of the mel, in order.
            seed: seed of the random numbers.
            sample_rate: Hz that the mel was made for, if known.
            on_ready: called when more can be decoded.

        Returns:
            The utterance, and the reader of the iterator: to be started when the utterance is submitted, and stopped
            when it is done.

        Raises:
            VocoderError: the seed is not valid.
        """
        loaded, checked = self._loaded, check_seed(seed)
        model, audio = loaded.model, loaded.audio
        conditioning = IncrementalConditioning(
            loaded.windows,
            self._runs,
            audio.n_mels,
            loaded.executor.condition,
            on_ready=on_ready,
            kept=round(_KEPT_SECONDS * audio.sample_rate / audio.hop_length),
        )
        loudness = Loudness(model, audio)
        feed = MelReader(pieces, conditioning, audio, sample_rate=sample_rate, on_frames=loudness.extend)
        frames = round(READ_AHEAD_SECONDS * audio.sample_rate / audio.hop_length)
        frames += round(_KEPT_SECONDS * audio.sample_rate / audio.hop_length)
        size = frames * (model.columns + audio.n_mels) * np.dtype(np.float32).itemsize
        utterance = Utterance(
            lambda: conditioning,
            0,
            None,
            size,
            (),
            lambda _: SeededUniforms(model, checked),
            lambda: OutputGuard(model, audio, loudness=loudness),
        )
        return utterance, feed


class MelReader:
    """Thread that reads pieces of a mel from an iterator and appends them to a conditioning.

    A piece is float [n_mels, k] with any k, or a single frame [n_mels]. Each is checked on arrival. An invalid piece
    or an error of the iterator ends the stream with that error, after the samples of the frames before it.

    `stop` cannot interrupt an iterator that blocks: it takes effect at the next piece. The thread is a daemon, so that
    it does not prevent the program from ending.
    """

    def __init__(
        self,
        pieces: Iterable[ArrayLike],
        conditioning: IncrementalConditioning,
        audio: AudioConfig,
        *,
        sample_rate: int | None = None,
        read_ahead: float = READ_AHEAD_SECONDS,
        on_frames: Callable[[FloatArray], None] | None = None,
    ) -> None:
        """Prepares the thread; `start` starts it.

        Args:
            pieces: of the mel, in order.
            conditioning: receives the frames.
            audio: the model's audio settings.
            sample_rate: Hz that the mel was made for, if known.
            read_ahead: seconds of frames to read in advance of decoding; at least what a chunk needs.
            on_frames: called with checked frames, before they can be decoded.

        Raises:
            VocoderError: ``pieces`` is not iterable.
        """
        if not isinstance(pieces, Iterable):
            raise VocoderError(
                f"mel: found {type(pieces).__name__}, expected an array, or an iterator over pieces [{audio.n_mels}, k]"
            )
        self._pieces = pieces
        self._conditioning = conditioning
        self._audio = audio
        self._sample_rate = sample_rate
        self._on_frames = on_frames
        frames = round(read_ahead * audio.sample_rate / audio.hop_length)
        self._ahead = max(frames, conditioning.least_ahead)
        self._thread = threading.Thread(target=self._run, name="wavernn-trt-mel-feed", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops reading without waiting; may be called repeatedly and by any thread."""
        self._conditioning.close()

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the thread has ended, at most ``timeout`` seconds; returns whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        iterator: Iterator[ArrayLike] | None = None
        try:
            iterator = iter(self._pieces)
            index = 0
            while self._conditioning.wait_for_room(self._ahead):
                try:
                    piece = next(iterator)
                except StopIteration:
                    self._conditioning.end()
                    return
                self._append(self._checked(piece, index))
                index += 1
        except BaseException as error:  # any error must end the stream, whose reader would wait without end
            self._conditioning.fail(error)
        finally:
            if isinstance(iterator, Generator):
                iterator.close()  # a generator's clean-up must run in the thread that iterates

    def _append(self, frames: FloatArray) -> None:
        if self._on_frames is not None:
            self._on_frames(frames)
        for first in range(0, frames.shape[1], BLOCK_FRAMES):
            if first and not self._conditioning.wait_for_room(self._ahead):
                return
            self._conditioning.append(frames[:, first : first + BLOCK_FRAMES])

    def _checked(self, piece: ArrayLike, index: int) -> FloatArray:
        """Checks a piece and returns it as float32 [n_mels, k]."""
        bins = self._audio.n_mels
        with contextlib.suppress(ValueError):  # rows of different lengths: refused below
            piece = np.asarray(piece)
            if piece.shape == (bins,):
                piece = piece[:, None]
            if piece.shape == (bins, 0):
                return np.zeros((bins, 0), np.float32)
        try:
            return check_mel(piece, self._audio, self._sample_rate)
        except VocoderError as error:
            raise VocoderError(f"mel, piece {index}: {str(error).removeprefix('mel: ')}") from None
