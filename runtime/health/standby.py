"""Several that can speak, in the order in which they are preferred; when one is damaged, the next answers.

Nothing falls back silently: every answer names who gave it, every change is an event, and what cannot sound as good as
the model is marked as degraded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

from numpy.typing import ArrayLike

from wavernn_trt.export.model_directory import read_audio
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import DamagedOutputError, ExecutorError, VocoderError
from wavernn_trt.runtime.health.candidate import Candidate, Problem, ProblemKind, Speaker, Standing
from wavernn_trt.runtime.health.griffin_lim import GriffinLim
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice

logger = logging.getLogger(__name__)

EventKind = Literal[ProblemKind, "taken back"]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class StandbyEvent:
    """A candidate was put out of use, or taken back."""

    time: float
    """Seconds since 1970."""
    candidate: str
    """Its name."""
    kind: EventKind
    """What happened."""
    message: str
    """What was found."""
    answered_by: str | None
    """Who answered the request instead; ``None`` where there was no request, or nobody did."""


@dataclass(frozen=True)
class Spoken:
    """An answer."""

    waveform: FloatArray
    """float32 [frames * hop_length]."""
    sample_rate: int
    """Hz."""
    source: str
    """The name of the candidate that gave it."""
    degraded: bool
    """Whether the model would have sounded better."""


class NobodyAnswersError(ExecutorError):
    """Every candidate is out of use; says why, for each."""


class StandbyVocoder:
    """Speaks with the first of its candidates that can; any number of threads may use it.

    A candidate is quarantined when it cannot be loaded, fails its probe, or fails while it speaks; the same request is
    then answered by the next. A mistake of the caller's is no damage, and is raised. A quarantined candidate is loaded
    and probed again when its files have changed, when some time has passed (30 seconds, doubled each time, up to half
    an hour), and on `recheck`: in the background, as long as another can answer.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        on_event: Callable[[StandbyEvent], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Loads nothing yet; `load` does, or the first request.

        Args:
            candidates: the preferred first.
            on_event: is called with each event, by the thread that found it, after the request was answered.
            clock: seconds, for trying again.

        Raises:
            VocoderError: there are none, or two have the same name.
        """
        names = [candidate.name for candidate in candidates]
        if not names or len(set(names)) < len(names):
            raise VocoderError(
                f"candidates: found {names or 'none'}, expected at least one, each with a name of its own"
            )
        self._standings = [Standing(candidate, clock) for candidate in candidates]
        self._on_event = on_event
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def vocode(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> Spoken:
        """Speaks a mel spectrogram; the arguments are `wavernn_trt.runtime.vocoder.Vocoder.vocode`'s.

        Raises:
            VocoderError: an argument is not usable.
            NobodyAnswersError: every candidate is out of use.
        """

        def speak(speaker: Speaker) -> FloatArray:
            return speaker.vocode(mel, seed=seed, fold=fold, overlap=overlap, sample_rate=sample_rate)

        waveform, candidate, rate = self._ask(speak)
        return Spoken(waveform, rate, candidate.name, candidate.degraded)

    def load(self) -> str:
        """Loads the first candidate that can be, so that the first request need not; returns its name.

        Raises:
            NobodyAnswersError: none can.
        """
        return self._ask(lambda speaker: None)[1].name

    def recheck(self, name: str | None = None) -> dict[str, str]:
        """Probes what is loaded, and loads and probes what is quarantined, now.

        Args:
            name: of the one candidate to look at; ``None`` is all that were ever loaded.

        Returns:
            What is wrong with each, by name; empty if nothing is.

        Raises:
            VocoderError: there is no candidate of that name.
        """
        chosen = [one for one in self._standings if name in (None, one.candidate.name)]
        if not chosen:
            known = ", ".join(one.candidate.name for one in self._standings)
            raise VocoderError(f"candidate: found {name!r}, expected one of {known}")
        found: dict[str, str] = {}
        for standing in chosen:
            standing.settle()
            if standing.claim():
                self._retry(standing)
            elif standing.loaded and (problem := standing.examine()) is not None:
                self._tell(standing.candidate, problem.kind, problem.message, None)
            elif not standing.loaded and standing.problem is None:
                continue
            problem = standing.problem
            found[standing.candidate.name] = "" if problem is None else problem.message
        return found

    def quarantined(self) -> dict[str, Problem]:
        """Who is out of use, and why."""
        problems = {standing.candidate.name: standing.problem for standing in self._standings}
        return {name: problem for name, problem in problems.items() if problem is not None}

    def close(self) -> None:
        """Closes every candidate, when who uses it has left; waits for what is being tried again."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for thread in threads:
            thread.join()
        for standing in self._standings:
            standing.close()

    def __enter__(self) -> StandbyVocoder:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

    def _ask(self, ask: Callable[[Speaker], Answer]) -> tuple[Answer, Candidate, int]:
        """The first answer; who gave it, and its sample rate."""
        if self._closed:
            raise VocoderError("these standbys are closed; make them again")
        failures: list[tuple[Standing, Problem]] = []
        answered_by: str | None = None
        try:
            for nobody_answered in (False, True):
                for standing in self._standings:
                    if nobody_answered:
                        standing.settle()  # now it is worth waiting for who is being tried again
                    elif standing.due():
                        self._retry_in_background(standing)
                    loaded, problem = standing.enter()
                    if problem is not None:
                        failures.append((standing, problem))
                    if loaded is None:
                        continue
                    try:
                        answer = ask(loaded.speaker)
                        answered_by = standing.candidate.name
                        return answer, standing.candidate, loaded.speaker.sample_rate
                    except ExecutorError as error:
                        kind: ProblemKind = (
                            "damaged output" if isinstance(error, DamagedOutputError) else "executor failed"
                        )
                        problem = Problem(kind, str(error))
                        if standing.quarantine(loaded, problem):
                            failures.append((standing, problem))
                    finally:
                        standing.leave(loaded)
            reasons = "; ".join(f"{name}: {problem.message}" for name, problem in self.quarantined().items())
            raise NobodyAnswersError(f"every candidate is out of use: {reasons}")
        finally:
            for standing, problem in failures:
                self._tell(standing.candidate, problem.kind, problem.message, answered_by)

    def _retry_in_background(self, standing: Standing) -> None:
        with self._lock:
            if self._closed or not standing.claim():
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            name = f"wavernn-trt retry of {standing.candidate.name}"
            thread = threading.Thread(target=self._retry, args=(standing,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _retry(self, standing: Standing) -> None:
        """Tries a candidate again, which the caller has claimed."""
        problem = standing.retry()
        if problem is None:
            self._tell(standing.candidate, "taken back", "it was loaded again, and is well", None)
        else:
            logger.info("%s is still out of use: %s", standing.candidate.name, problem.message)

    def _tell(self, candidate: Candidate, kind: EventKind, message: str, answered_by: str | None) -> None:
        event = StandbyEvent(time.time(), candidate.name, kind, message, answered_by)
        if kind == "taken back":
            logger.warning("%s is taken back: %s", candidate.name, message)
        else:
            answer = "nobody answered instead" if answered_by is None else f"{answered_by} answered instead"
            logger.warning("%s is out of use: %s: %s; %s", candidate.name, kind, message, answer)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:  # who listens does not stop who speaks
            logger.exception("the listener to events failed")


def usual_candidates(
    path: str | Path | None = None,
    backends: Sequence[tuple[str, WeightPrecision | None]] = (("auto", None), ("onnxruntime", None)),
    *,
    threads: int | None = None,
    cache: str | Path | None = None,
    griffin_lim: bool = True,
) -> list[Candidate]:
    """One model with several backends, and Griffin-Lim last of all.

    Args:
        path: a model directory; ``None`` is the voice that is shipped.
        backends: with their precision on a GPU, the preferred first, as in
            ``[("tensorrt_rtx", "fp16"), ("cuda", "fp32"), ("onnxruntime", None)]``.
        threads: see `wavernn_trt.runtime.vocoder.Vocoder.load`.
        cache: likewise.
        griffin_lim: whether to speak without the model where nothing else can; needs the extra ``fallback``.

    Raises:
        ModelDirectoryError: not even the model's audio settings can be read.
    """
    folder = shipped_voice() if path is None else Path(path)

    def loader(backend: str, precision: WeightPrecision | None) -> Callable[[], Speaker]:
        return lambda: Vocoder.load(folder, backend, threads=threads, precision=precision, cache=cache)

    candidates = [
        Candidate(backend if precision is None else f"{backend} {precision}", loader(backend, precision), folder)
        for backend, precision in backends
    ]
    if griffin_lim:
        audio = read_audio(folder)  # now, while it is there
        candidates.append(Candidate("griffin-lim", lambda: GriffinLim(audio), degraded=True))
    return candidates
