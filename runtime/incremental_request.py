"""A request whose mel is still arriving: from an iterator over its pieces to an utterance."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.runtime.conditioning.incremental_blocks import conditioning_blocks
from wavernn_trt.runtime.conditioning.incremental_conditioning import GrowingConditioning
from wavernn_trt.runtime.conditioning.mel_feed import READ_AHEAD_SECONDS, MelFeed
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms, check_seed
from wavernn_trt.runtime.health.loudness import Loudness
from wavernn_trt.runtime.health.output_guard import OutputGuard
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.scheduling.utterance import Utterance

_KEPT_SECONDS = 10.0
"""Of conditioning behind what is heard: a stream that is no longer survives the loss of its lane."""


class IncrementalRequests:
    """Checks requests whose mel arrives frame by frame, for one model and look-ahead."""

    def __init__(self, loaded: LoadedModel, lookahead: int | None) -> None:
        """Finds out what the model's conditioner reads, by running it over short mels.

        Args:
            loaded: the model.
            lookahead: frames to wait for, where the model leaves the choice.

        Raises:
            VocoderError: this model needs the whole mel, or cannot do with that look-ahead.
        """
        self._loaded = loaded
        self._blocks = conditioning_blocks(loaded.model, loaded.audio.n_mels, loaded.executor.condition, lookahead)

    @property
    def lookahead(self) -> int:
        """Frames that must be there behind a frame before its samples are drawn."""
        return self._blocks.lookahead

    def begin(
        self,
        pieces: Iterator[ArrayLike],
        seed: int,
        sample_rate: int | None,
        on_ready: Callable[[], None],
    ) -> tuple[Utterance, MelFeed]:
        """Prepares to speak one.

        Args:
            pieces: of the mel, in its order.
            seed: of the random numbers.
            sample_rate: Hz that the mel is made for, where the caller knows it.
            on_ready: called when more can be decoded.

        Returns:
            The utterance, and what pulls the iterator: to be started when the utterance is submitted, and stopped when
            that is done.

        Raises:
            VocoderError: the seed is not usable.
        """
        loaded, checked = self._loaded, check_seed(seed)
        model, audio = loaded.model, loaded.audio
        conditioning = GrowingConditioning(
            loaded.windows,
            self._blocks,
            audio.n_mels,
            loaded.executor.condition,
            on_ready=on_ready,
            kept=round(_KEPT_SECONDS * audio.sample_rate / audio.hop_length),
        )
        loudness = Loudness(model, audio)
        feed = MelFeed(pieces, conditioning, audio, sample_rate=sample_rate, on_frames=loudness.extend)
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
