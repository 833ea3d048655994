"""Failover between vocoders of one model, in order of preference.

Nothing falls back silently: every answer names its source, every change is an event, and a source that cannot sound as
good as the model is marked as degraded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeVar

from numpy.typing import ArrayLike

from wavernn_trt.export.model_directory import read_audio
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import ClosedError, DamagedOutputError, ExecutorError, VocoderError
from wavernn_trt.runtime.health.griffin_lim import GriffinLim
from wavernn_trt.runtime.health.probe import NoProbeError, ProbeFailedError, require_probe
from wavernn_trt.runtime.models.breaker import BreakerSettings, CircuitBreaker, Permit
from wavernn_trt.runtime.models.lease import Lease, PooledModel
from wavernn_trt.runtime.models.pool import ModelPool, PoolState
from wavernn_trt.runtime.models.source import DirectoryStamp, directory_stamp
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice

logger = logging.getLogger(__name__)

ProblemKind = Literal["load failed", "probe failed", "damaged output", "executor failed"]
"""Why a candidate is out of use."""
EventKind = Literal[ProblemKind, "taken back"]
Answer = TypeVar("Answer")

ANY_FAILURE = BreakerSettings(window=1, minimum_calls=1, failure_rate=1.0, open_seconds=30.0, trials=1)
"""A candidate is out of use from its first failure on, and tried again after 30 seconds, doubled up to half an hour."""

LOAD_SECONDS = 60.0
"""How long a request waits for a candidate to load before it goes on to the next."""


class Speaker(Protocol):
    """What a candidate loads: a `Vocoder`, or an object with these methods; any number of threads use it."""

    @property
    def sample_rate(self) -> int:
        """Hz, of what comes out."""

    def vocode(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> FloatArray:
        """See `wavernn_trt.runtime.vocoder.Vocoder.vocode`."""

    def close(self) -> None:
        """Frees what it holds."""


@dataclass(frozen=True)
class Candidate:
    """A vocoder that can be loaded."""

    name: str
    """Its name in events and answers."""
    load: Callable[[], Speaker]
    """Loads it; files are checked here (`Vocoder.load` does). What it raises is why the candidate is not usable."""
    folder: Path | None = None
    """The model directory: when its files change, a candidate that is out of use is tried again at once."""
    degraded: bool = False
    """Whether it sounds worse than the model does."""


@dataclass(frozen=True)
class Problem:
    """Why a candidate is out of use."""

    kind: ProblemKind
    message: str


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
    """The candidate that answered the request instead; ``None`` where there was no request, or no answer."""


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
    """Every candidate is out of use; names the reason of each."""


@dataclass(eq=False)
class _Member:
    """A candidate's state."""

    candidate: Candidate
    breaker: CircuitBreaker
    problem: Problem | None = None
    stamp: DirectoryStamp | None = None
    """Its files as they were before the last load, or when it was put out of use."""
    trial: Future[Problem | None] | None = None
    """The last trial; done when its result was reported to the breaker."""


class StandbyVocoder:
    """Answers with the first of its candidates that works; any number of threads may use it.

    A candidate is out of use when its breaker opens: by default with its first failure to load, to pass its probe or
    to decode. The same request is then answered by the next candidate. A mistake of the caller's is not a failure,
    and is raised. A candidate out of use is loaded and probed again when its files have changed, when the breaker
    permits it, and on `recheck`: in the background, as long as another can answer.

    A candidate that does not load in time counts as failed; it is used once it is loaded after all.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        *,
        on_event: Callable[[StandbyEvent], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        breaker: BreakerSettings = ANY_FAILURE,
        load_seconds: float = LOAD_SECONDS,
    ) -> None:
        """Loads nothing yet; `load` does, or the first request.

        Args:
            candidates: the preferred first.
            on_event: is called with each event, by the thread that found it, after the request was answered.
            clock: seconds, for trials and for time limits.
            breaker: when a candidate is put out of use, and when it is tried again.
            load_seconds: how long a request waits for a candidate to load, from the begin of its load.

        Raises:
            VocoderError: there are none, or two have the same name.
        """
        names = [candidate.name for candidate in candidates]
        if not names or len(set(names)) < len(names):
            raise VocoderError(
                f"candidates: found {names or 'none'}, expected at least one, each with a name of its own"
            )
        if not load_seconds > 0:
            raise VocoderError(f"load_seconds: found {load_seconds!r}, expected seconds above 0")
        self._members = [_Member(candidate, CircuitBreaker(breaker, clock)) for candidate in candidates]
        self._pool: ModelPool[str, Speaker] = ModelPool("the standby vocoder", load_seconds=load_seconds, clock=clock)
        self._load_seconds = load_seconds
        self._on_event = on_event

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
            ClosedError: it is closed, or is draining.
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
        """Probes the candidates in memory, and loads and probes those out of use, now.

        Args:
            name: of one candidate; ``None`` is all that were ever loaded.

        Returns:
            What is wrong with each, by name; empty if nothing is.

        Raises:
            VocoderError: there is no candidate of that name.
        """
        chosen = [member for member in self._members if name in (None, member.candidate.name)]
        if not chosen:
            known = ", ".join(member.candidate.name for member in self._members)
            raise VocoderError(f"candidate: found {name!r}, expected one of {known}")
        found: dict[str, str] = {}
        for member in chosen:
            with self._pool.changing():
                known_to_pool = member.candidate.name in {*self._pool.models, *self._pool.loads}
            if member.breaker.state == "closed" and not known_to_pool:
                continue
            member.breaker.end_open_time()
            if (permit := member.breaker.permit()) is not None:
                self._start_trial(member, permit)
            if (trial := member.trial) is None:
                continue
            if not self._join_trial(member):
                found[member.candidate.name] = f"it does not answer; it had {self._load_seconds:g} s"
            else:
                problem = trial.result()
                found[member.candidate.name] = "" if problem is None else problem.message
        return found

    def quarantined(self) -> dict[str, Problem]:
        """The candidates that are out of use, and why."""
        problems = {
            member.candidate.name: member.problem for member in self._members if member.breaker.state != "closed"
        }
        return {name: problem for name, problem in problems.items() if problem is not None}

    @property
    def state(self) -> PoolState:
        """``ready``, or ``draining`` or ``closed``, when requests get a `ClosedError`."""
        return self._pool.state

    @property
    def ready(self) -> bool:
        """Whether a request would be answered without loading a candidate first."""
        with self._pool.changing():
            return self._pool.state == "ready" and any(
                member.candidate.name in self._pool.models and member.breaker.state == "closed"
                for member in self._members
            )

    def drain(self, seconds: float | None = None) -> bool:
        """Refuses new requests from now on, and waits until those under way are answered, so many seconds at most.

        Returns:
            Whether they are answered.
        """
        return self._pool.drain(seconds)

    def close(self) -> None:
        """Closes every candidate, those in use with their last request; waits for trials, ten seconds at most."""
        self._pool.close()

    def __enter__(self) -> StandbyVocoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, ask: Callable[[Speaker], Answer]) -> tuple[Answer, Candidate, int]:
        """The first answer, its candidate, and its sample rate in Hz."""
        failures: list[tuple[_Member, Problem]] = []
        answered_by: str | None = None
        try:
            with self._pool.request():
                for member, permit in self._permitted():
                    lease = None
                    try:
                        lease = self._lease(member)
                        answer = ask(lease.vocoder)
                        permit.success()
                        answered_by = member.candidate.name
                        return answer, member.candidate, lease.vocoder.sample_rate
                    except Exception as error:
                        problem = self._problem(error, lease)
                        if problem is None:
                            permit.cancel()
                            raise
                        if self._fail(member, permit, problem, lease):
                            failures.append((member, problem))
                    finally:
                        if lease is not None:
                            lease.close()
            reasons = "; ".join(f"{name}: {problem.message}" for name, problem in self.quarantined().items())
            raise NobodyAnswersError(f"every candidate is out of use: {reasons or 'all failed just now'}")
        finally:
            for member, problem in failures:
                self._report(member.candidate, problem.kind, problem.message, answered_by)

    def _permitted(self) -> Iterator[tuple[_Member, Permit]]:
        """The candidates in use, in order; then, as the last resort, also those whose trial is under way."""
        for last_resort in (False, True):
            for member in self._members:
                if last_resort:
                    self._join_trial(member)
                if (permit := self._permit(member)) is not None:
                    yield member, permit

    def _permit(self, member: _Member) -> Permit | None:
        """Permits a request; a trial that is due is begun instead, in the background."""
        breaker = member.breaker
        if breaker.state == "open" and member.stamp != directory_stamp(member.candidate.folder):
            breaker.end_open_time()
        permit = breaker.permit()
        if permit is None or not permit.trial:
            return permit
        self._start_trial(member, permit)
        return None

    def _lease(self, member: _Member) -> Lease[str, Speaker]:
        """A lease of a candidate, which is loaded and probed if it is not in memory."""
        candidate = member.candidate
        path = candidate.folder or Path(candidate.name)
        return self._pool.load(candidate.name, path, 0, partial(self._load, member))

    def _load(self, member: _Member) -> PooledModel[str, Speaker]:
        """Loads and probes a candidate, in a thread of the pool."""
        candidate = member.candidate
        member.stamp = directory_stamp(candidate.folder)  # before reading: files that change meanwhile count as changed
        speaker = candidate.load()
        pooled = PooledModel(candidate.name, speaker, candidate.folder or Path(candidate.name))
        try:
            _probe(candidate, speaker)
        except BaseException:
            with self._pool.changing():
                self._pool.closing.append(pooled)  # if it hangs, no request waits for that
            raise
        return pooled

    def _problem(self, error: Exception, lease: Lease[str, Speaker] | None) -> Problem | None:
        """What an error says of the candidate; ``None`` for a caller's mistake, or because the pool is closed."""
        kind: ProblemKind
        if lease is None:
            if isinstance(error, ClosedError) and self._pool.state == "closed":
                return None
            kind = "probe failed" if isinstance(error, ProbeFailedError) else "load failed"
        elif isinstance(error, ExecutorError):
            kind = "damaged output" if isinstance(error, DamagedOutputError) else "executor failed"
        else:
            return None
        return Problem(kind, str(error) or type(error).__name__)

    def _fail(self, member: _Member, permit: Permit, problem: Problem, lease: Lease[str, Speaker] | None) -> bool:
        """Reports a failure to the breaker; returns whether the candidate is out of use because of it."""
        if lease is not None:
            member.stamp = directory_stamp(member.candidate.folder)
        if not permit.failure(opens=problem.kind == "probe failed"):
            logger.warning("%s failed: %s: %s", member.candidate.name, problem.kind, problem.message)
            return False
        member.problem = problem
        if lease is not None:
            with self._pool.changing():
                pooled = self._pool.models.get(member.candidate.name)
                if pooled is not None and pooled.vocoder is lease.vocoder:
                    self._pool.retire(pooled)
        return True

    def _start_trial(self, member: _Member, permit: Permit) -> None:
        trial: Future[Problem | None] = Future()
        member.trial = trial
        self._pool.start(f"retry of {member.candidate.name}", partial(self._try, member, permit, trial))

    def _join_trial(self, member: _Member) -> bool:
        """Waits for a trial that is under way, if one is; returns whether it ended in time."""
        trial = member.trial
        return trial is None or bool(wait_for([trial], self._load_seconds).done)

    def _try(self, member: _Member, permit: Permit, trial: Future[Problem | None]) -> None:
        """The thread of a trial: loads a candidate, or probes it where it is in memory."""
        name = member.candidate.name
        lease = problem = None
        try:
            with self._pool.changing():
                in_memory = name in self._pool.models
            lease = self._lease(member)
            if in_memory:
                _probe(member.candidate, lease.vocoder)
        except Exception as error:
            problem = self._problem(error, None)
            if problem is None:
                permit.cancel()
            elif not self._fail(member, permit, problem, lease) or permit.trial:
                logger.info("%s is still out of use: %s", name, problem.message)
            else:
                self._report(member.candidate, problem.kind, problem.message, None)
        else:
            if permit.success():
                member.problem = None
                self._report(member.candidate, "taken back", "it was loaded again, and passes its probe", None)
        finally:
            if lease is not None:
                lease.close()
            trial.set_result(problem)

    def _report(self, candidate: Candidate, kind: EventKind, message: str, answered_by: str | None) -> None:
        event = StandbyEvent(time.time(), candidate.name, kind, message, answered_by)
        if kind == "taken back":
            logger.warning("%s is taken back: %s", candidate.name, message)
        else:
            answer = "no candidate answered instead" if answered_by is None else f"{answered_by} answered instead"
            logger.warning("%s is out of use: %s: %s; %s", candidate.name, kind, message, answer)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("the listener to events failed")


def _probe(candidate: Candidate, speaker: Speaker) -> None:
    if not isinstance(speaker, Vocoder):
        return
    try:
        require_probe(speaker)
    except NoProbeError as error:
        logger.warning("%s is used without a probe: %s", candidate.name, error)


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
    candidates = [
        Candidate(
            backend if precision is None else f"{backend} {precision}",
            partial(Vocoder.load, folder, backend, threads=threads, precision=precision, cache=cache),
            folder,
        )
        for backend, precision in backends
    ]
    if griffin_lim:
        audio = read_audio(folder)  # now, while it is there
        candidates.append(Candidate("griffin-lim", partial(GriffinLim, audio), degraded=True))
    return candidates
