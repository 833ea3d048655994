"""An utterance: a checked request, and all that is kept of it until its ticket is done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import Conditioning, FloatArray, Want
from wavernn_trt.runtime.decoding.chunk_loop import Piece, Stream
from wavernn_trt.runtime.decoding.folding import Fold, join_folds
from wavernn_trt.runtime.decoding.sample_coding import DeEmphasis, SampleCoding
from wavernn_trt.runtime.decoding.uniforms import UniformSource
from wavernn_trt.runtime.health.output_guard import OutputGuard
from wavernn_trt.runtime.scheduling.sinks import Collected, Sink
from wavernn_trt.runtime.scheduling.ticket import Ticket

Urgency = Literal["interactive", "batch"]
"""Whether a listener waits for the utterance, or it is part of a job."""
URGENCIES: tuple[Urgency, ...] = ("interactive", "batch")


@dataclass(eq=False, kw_only=True)
class UtteranceStream(Stream):
    """The state of one fold of an utterance, or of an utterance that is not folded, in one attempt."""

    utterance: Utterance
    attempt: int
    guard: OutputGuard

    @property
    def stale(self) -> bool:
        """Whether the utterance has ended, or was started again."""
        return self.utterance.ended or self.attempt != self.utterance.attempts


@dataclass(eq=False)
class Utterance:
    """One request on its way from `Scheduler.submit` to its ticket's result.

    The first seven fields are what was asked; a scheduler sets the others. Conditioning, attempts and waiting streams
    belong to the scheduler's lock, the waveform and the sink to `delivery`.
    """

    condition: Callable[[], Conditioning]
    """Runs the conditioner, or the part of it that can be run yet."""
    frames: int
    """Of the mel that one run of the conditioner takes."""
    steps: int | None
    """To be decoded; ``None`` is all, however many frames may come."""
    conditioning_bytes: int
    """That its conditioning takes at most, at a time."""
    folds: Sequence[Fold]
    """How it is cut; empty where it is not."""
    uniforms: Callable[[int], UniformSource]
    """A fold's number to its random numbers, from the first."""
    guard: Callable[[], OutputGuard]
    """Makes a check of what is decoded."""

    ticket: Ticket = field(default_factory=Ticket)
    sink: Sink = field(default_factory=Collected)
    urgency: Urgency = "batch"
    deadline: float | None = None
    """On the clock of `time.monotonic`."""
    progress: Callable[[int], None] | None = None
    coding: SampleCoding | None = None
    """What samples mean; ``None`` has the sink take them as drawn (labels, or values for mixtures), unchecked."""

    attempts: int = 1
    """Which attempt this is; streams and pieces of an earlier one are ignored."""
    conditioning: Conditioning | None = None
    held_bytes: int = 0
    """Of the scheduler's bound on conditioning."""
    waiting: deque[UtteranceStream] = field(default_factory=deque)
    """Streams of this attempt that have had no slot yet."""
    started: bool = False
    """Whether a stream of this attempt has had a slot."""
    ended: bool = False

    delivery: Any = field(default_factory=threading.RLock)
    """Guards what follows: folds may be decoded in several lanes, and any thread may cancel, the sink's too."""
    produced: int = 0
    """Samples of this attempt's waveform."""
    delivered: int = 0
    """Samples that the sink was given, in this attempt or an earlier one."""
    _de_emphasis: DeEmphasis | None = None
    _parts: list[list[NDArray[np.float64]]] = field(default_factory=list)
    _streams_left: int = 1

    def begin(self, conditioning: Conditioning, want: Want) -> None:
        """Begins an attempt; no lane has one of its streams that is not stale.

        Args:
            conditioning: the utterance's.
            want: see `Conditioning.for_stream`.
        """
        cuts: list[tuple[int, int | None]] = [(fold.first, fold.stop) for fold in self.folds]
        cuts = cuts or [(0, self.steps)]
        guard = self.guard()
        with self.delivery:
            self.produced = 0
            self._de_emphasis = None if self.coding is None else self.coding.de_emphasis()
            self._parts = [[] for _ in self.folds]
            self._streams_left = len(cuts)
        self.started = False
        self.waiting = deque(
            UtteranceStream(
                conditioning=conditioning.for_stream(want),
                uniforms=self.uniforms(number),
                start=start,
                stop=stop,
                number=number,
                utterance=self,
                attempt=self.attempts,
                guard=guard.another() if number else guard,
            )
            for number, (start, stop) in enumerate(cuts)
        )

    def deliver(self, piece: Piece[UtteranceStream]) -> tuple[int, bool]:
        """Gives the sink what a piece adds to the waveform.

        A later attempt yields the same samples again; those that the sink was given are left out.

        Raises:
            DamagedOutputError: the samples cannot be right.

        Returns:
            How many samples the sink was given, and whether the waveform is complete.
        """
        with self.delivery:
            if piece.stream.stale:
                return 0, False
            if self.coding is not None:
                piece.stream.guard.check(piece.start, piece.samples)
            samples = self._decoded(piece)
            fresh = samples[max(0, self.delivered - self.produced) :]
            self.produced += len(samples)
            if len(fresh):
                self.delivered += len(fresh)
                self.sink.write(fresh)
            return len(fresh), not self._streams_left

    def _decoded(self, piece: Piece[UtteranceStream]) -> FloatArray:
        """What a piece adds to the waveform; that of a folded utterance comes with the last piece of all."""
        self._streams_left -= piece.last
        if self.coding is None or self._de_emphasis is None:
            return piece.samples.copy()  # the chunk's array is let go
        amplitudes = self.coding.amplitudes(piece.samples)
        if self.folds:
            self._parts[piece.stream.number].append(amplitudes)
            if self._streams_left:
                return np.zeros(0, np.float32)
            amplitudes = join_folds(self.folds, [np.concatenate(part) for part in self._parts])
            self._parts.clear()
        return self._de_emphasis(amplitudes).astype(np.float32)

    def finish(self, error: BaseException | None) -> FloatArray:
        """Has the sink know that no more will come.

        Returns:
            What the ticket yields: nothing, where the sink is the caller's, or after an error.
        """
        with self.delivery:
            self.ended = True
            self.sink.finish(error)
        if error is None and isinstance(self.sink, Collected):
            return self.sink.waveform()
        return np.zeros(0, np.float32)
