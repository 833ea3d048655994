"""An utterance: a checked request and its state until its ticket is done."""

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
from wavernn_trt.runtime.decoding.uniforms import UniformSource
from wavernn_trt.runtime.health.output_guard import OutputGuard
from wavernn_trt.runtime.sample_coding import DeEmphasis, SampleCoding
from wavernn_trt.runtime.scheduling.sinks import Collected, Sink
from wavernn_trt.runtime.scheduling.ticket import Ticket

Urgency = Literal["interactive", "batch"]
"""``interactive`` if a listener waits for the utterance, ``batch`` if it is part of a job."""
URGENCIES: tuple[Urgency, ...] = ("interactive", "batch")


@dataclass(eq=False, kw_only=True)
class UtteranceStream(Stream):
    """State of one fold, or of an utterance without folds, in one attempt."""

    utterance: Utterance
    attempt: int
    guard: OutputGuard

    @property
    def stale(self) -> bool:
        """Whether the utterance has ended or was restarted."""
        return self.utterance.ended or self.attempt != self.utterance.attempts


@dataclass(eq=False)
class Utterance:
    """One request, from `Scheduler.submit` to its ticket's result.

    The first seven fields describe the request; the scheduler sets the others. The scheduler's lock guards
    conditioning, attempts and waiting streams; `delivery` guards the waveform and the sink.
    """

    condition: Callable[[], Conditioning]
    """Runs the conditioner, or the part of it that can run now."""
    frames: int
    """Frames of the mel in one run of the conditioner."""
    steps: int | None
    """Steps to decode; ``None`` decodes all steps of a mel that is still arriving."""
    conditioning_bytes: int
    """Maximum memory for its conditioning at a time."""
    folds: Sequence[Fold]
    """Folds of the utterance; empty if it is not folded."""
    uniforms: Callable[[int], UniformSource]
    """Maps a fold's number to its random numbers, from the fold's first step."""
    guard: Callable[[], OutputGuard]
    """Makes a check of the decoded samples."""

    ticket: Ticket = field(default_factory=Ticket)
    sink: Sink = field(default_factory=Collected)
    urgency: Urgency = "batch"
    deadline: float | None = None
    """Latest time of completion, on the clock of `time.monotonic`."""
    progress: Callable[[int], None] | None = None
    coding: SampleCoding | None = None
    """Conversion of samples to amplitudes; with ``None`` the sink receives samples as drawn, unchecked."""

    attempts: int = 1
    """Number of the current attempt, from 1; streams and pieces of earlier attempts are ignored."""
    conditioning: Conditioning | None = None
    held_bytes: int = 0
    """Its share of the scheduler's bound on conditioning memory."""
    waiting: deque[UtteranceStream] = field(default_factory=deque)
    """Streams of this attempt that have not had a slot."""
    started: bool = False
    """Whether a stream of this attempt has had a slot."""
    ended: bool = False

    delivery: Any = field(default_factory=threading.RLock)
    """Guards the fields below: folds may be decoded in several lanes, and any thread may cancel, the sink's too."""
    produced: int = 0
    """Samples produced in this attempt."""
    delivered: int = 0
    """Samples written to the sink, over all attempts."""
    _de_emphasis: DeEmphasis | None = None
    _parts: list[list[NDArray[np.float64]]] = field(default_factory=list)
    _streams_left: int = 1

    def begin(self, conditioning: Conditioning, want: Want) -> None:
        """Begins an attempt. Lanes may still hold stale streams of earlier attempts, but no current one.

        Args:
            conditioning: conditioning of the utterance.
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
        """Writes the samples that a piece adds to the waveform to the sink.

        A later attempt produces the same samples again; those already written are skipped.

        Raises:
            DamagedOutputError: the samples are invalid.

        Returns:
            The number of samples written to the sink, and whether the waveform is complete.
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
        """Returns the samples that a piece adds; a folded utterance has none before its very last piece."""
        self._streams_left -= piece.last
        if self.coding is None or self._de_emphasis is None:
            return piece.samples.copy()  # a view would keep the chunk's array alive
        amplitudes = self.coding.amplitudes(piece.samples)
        if self.folds:
            self._parts[piece.stream.number].append(amplitudes)
            if self._streams_left:
                return np.zeros(0, np.float32)
            amplitudes = join_folds(self.folds, [np.concatenate(part) for part in self._parts])
            self._parts.clear()
        return self._de_emphasis(amplitudes).astype(np.float32)

    def finish(self, error: BaseException | None) -> FloatArray:
        """Ends the sink.

        Returns:
            The ticket's waveform; empty if the sink is the caller's, or after an error.
        """
        with self.delivery:
            self.ended = True
            self.sink.finish(error)
        if error is None and isinstance(self.sink, Collected):
            return self.sink.waveform()
        return np.zeros(0, np.float32)
