"""Failover between vocoders of one model, in order of preference.

No failover is silent: every answer names its candidate, every failover is logged and reported as an event, and
candidates of lower quality than the model are marked as degraded.
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
from typing import Literal, Protocol, TypeVar

from numpy.typing import ArrayLike

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.model_directory import read_audio
from wavernn_trt.runtime.errors import ClosedError, DamagedOutputError, ExecutorError, LoadTimeoutError, VocoderError
from wavernn_trt.runtime.health.griffin_lim import GriffinLim
from wavernn_trt.runtime.health.probe import NoProbeError, ProbeFailedError, require_probe
from wavernn_trt.runtime.load_options import LoadPrecision
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
"""Opens at the first failure of a candidate; permits a retry after 30 seconds, doubled up to half an hour."""

LOAD_SECONDS = 60.0
"""Maximum time that a request waits for a candidate to load, before it uses the next candidate."""


class Speaker(Protocol):
    """The object that a candidate loads: a `Vocoder`, or another object with these methods. Thread-safe."""

    @property
    def sample_rate(self) -> int:
        """Hz, of the waveform."""

    def vocode(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> FloatArray:
        """Vocodes a mel spectrogram, as `wavernn_trt.runtime.vocoder.Vocoder.vocode`."""

    def close(self) -> None:
        """Frees its memory."""


@dataclass(frozen=True)
class Candidate:
    """A vocoder that can be loaded."""

    name: str
    """Its name in events and answers."""
    load: Callable[[], Speaker]
    """Loads it and verifies its files (`Vocoder.load` does); any exception is a failure of the candidate."""
    folder: Path | None = None
    """The model directory: if its files change, a candidate out of use is retried at once."""
    degraded: bool = False
    """Whether its quality is lower than the model's."""


@dataclass(frozen=True)
class Problem:
    """Why a candidate is out of use."""

    kind: ProblemKind
    message: str


@dataclass(frozen=True)
class StandbyEvent:
    """A candidate is now out of use, or in use again."""

    time: float
    """Seconds since 1970."""
    candidate: str
    kind: EventKind
    message: str
    answered_by: str | None
    """The candidate that answered the request instead; ``None`` if there was no request, or no answer."""


@dataclass(frozen=True)
class Spoken:
    """A vocoded waveform and its source."""

    waveform: FloatArray
    """float32 [frames * hop_length]."""
    sample_rate: int
    """Hz."""
    source: str
    """Name of the candidate."""
    degraded: bool
    """Whether the candidate's quality is lower than the model's."""


class NobodyAnswersError(ExecutorError):
    """Every candidate is out of use; the message has the reason of each."""


@dataclass(eq=False)
class _Member:
    """A candidate and its state."""

    candidate: Candidate
    breaker: CircuitBreaker
    problem: Problem | None = None
    stamp: DirectoryStamp | None = None
    """Its files before the last load, or at the last failure."""
    trial: Future[Problem | None] | None = None
    """The last trial; done when its result is reported to the breaker."""


class StandbyVocoder:
    """Vocodes with the first working candidate. Thread-safe.

    A candidate is out of use while its breaker is open: by default from the first failed load, probe or decoding. The
    next candidate then answers the same request. An error caused by the arguments of a request is raised, and does not
    count as a failure. A candidate out of use is loaded and probed again when its files change, when the breaker
    permits a trial, and by `recheck`; in the background, as long as another candidate can answer.

    A candidate that does not load in time counts as failed; it is used when its load completes later.
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
        """Candidates are loaded by `load`, or by the first request.

        Args:
            candidates: in order of preference.
            on_event: called with each event, in the thread that detected it, after the request is answered.
            clock: seconds, for trials and time limits.
            breaker: when a candidate is out of use, and when it is retried.
            load_seconds: maximum time that a request waits for a candidate to load, from the start of the load.

        Raises:
            VocoderError: there are no candidates, or two have the same name.
        """
        names = [candidate.name for candidate in candidates]
        if not names or len(set(names)) < len(names):
            raise VocoderError(f"candidates: found {names or 'none'}, expected at least one, and different names")
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
        """Vocodes a mel spectrogram; arguments as for `wavernn_trt.runtime.vocoder.Vocoder.vocode`.

        Raises:
            VocoderError: an argument is invalid.
            ClosedError: this object is closed or draining.
            NobodyAnswersError: every candidate is out of use.
        """

        def vocode(speaker: Speaker) -> FloatArray:
            return speaker.vocode(mel, seed=seed, fold=fold, overlap=overlap, sample_rate=sample_rate)

        waveform, candidate, rate = self._request(vocode)
        return Spoken(waveform, rate, candidate.name, candidate.degraded)

    def load(self) -> str:
        """Loads the first candidate that works, before the first request; returns its name.

        Raises:
            NobodyAnswersError: every candidate is out of use.
        """
        return self._request(lambda speaker: None)[1].name

    def recheck(self, name: str | None = None) -> dict[str, str]:
        """Probes the candidates in memory, and loads and probes those out of use, and waits for the results.

        Args:
            name: of one candidate; ``None`` for all that were loaded before.

        Returns:
            By name, the problem of each candidate; an empty text if there is none.

        Raises:
            VocoderError: no candidate has that name.
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
                found[member.candidate.name] = f"no result within {self._load_seconds:g} s"
            else:
                problem = trial.result()
                found[member.candidate.name] = "" if problem is None else problem.message
        return found

    def quarantined(self) -> dict[str, Problem]:
        """The candidates out of use, with the reason."""
        problems = {
            member.candidate.name: member.problem for member in self._members if member.breaker.state != "closed"
        }
        return {name: problem for name, problem in problems.items() if problem is not None}

    @property
    def state(self) -> PoolState:
        """``ready``; or ``draining`` or ``closed``, in which requests raise `ClosedError`."""
        return self._pool.state

    @property
    def ready(self) -> bool:
        """Whether a candidate is loaded and in use, so that a request need not wait for a load."""
        with self._pool.changing():
            return self._pool.state == "ready" and any(
                member.candidate.name in self._pool.models and member.breaker.state == "closed"
                for member in self._members
            )

    def drain(self, seconds: float | None = None) -> bool:
        """Refuses new requests, and waits until the current ones end; returns whether that was within ``seconds``."""
        return self._pool.drain(seconds)

    def close(self) -> None:
        """Closes every candidate, those in use after their last request; waits at most ten seconds for trials."""
        self._pool.close()

    def __enter__(self) -> StandbyVocoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _request(self, call: Callable[[Speaker], Answer]) -> tuple[Answer, Candidate, int]:
        """Result of ``call`` on the first candidate that works, the candidate, and its sample rate in Hz."""
        failures: list[tuple[_Member, Problem]] = []
        answered_by: str | None = None
        try:
            with self._pool.request():
                for member, permit in self._permitted():
                    lease = None
                    try:
                        lease = self._lease(member)
                        answer = call(lease.vocoder)
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
            raise NobodyAnswersError(f"every candidate is out of use: {reasons or 'all failed for this request'}")
        finally:
            for member, problem in failures:
                self._report(member.candidate, problem.kind, problem.message, answered_by)

    def _permitted(self) -> Iterator[tuple[_Member, Permit]]:
        """The candidates in use, in order; then, as a last resort, those that a trial in progress puts in use again."""
        for last_resort in (False, True):
            for member in self._members:
                if last_resort:
                    self._join_trial(member)
                if (permit := self._permit(member)) is not None:
                    yield member, permit

    def _permit(self, member: _Member) -> Permit | None:
        """Permits a request. If the permit is for a trial, starts the trial in the background and returns ``None``."""
        breaker = member.breaker
        if breaker.state == "open" and member.stamp != directory_stamp(member.candidate.folder):
            breaker.end_open_time()
        permit = breaker.permit()
        if permit is None or not permit.trial:
            return permit
        self._start_trial(member, permit)
        return None

    def _lease(self, member: _Member) -> Lease[str, Speaker]:
        """Leases a candidate, which is loaded and probed if it is not in memory."""
        candidate = member.candidate
        path = candidate.folder or Path(candidate.name)
        return self._pool.load(candidate.name, path, 0, partial(self._load, member))

    def _load(self, member: _Member) -> PooledModel[str, Speaker]:
        """Loads and probes a candidate. Called in a thread of the pool."""
        candidate = member.candidate
        member.stamp = directory_stamp(candidate.folder)  # before the load, so that changes during it are detected
        speaker = candidate.load()
        pooled = PooledModel(candidate.name, speaker, candidate.folder or Path(candidate.name))
        try:
            _probe(candidate, speaker)
        except BaseException:
            with self._pool.changing():
                self._pool.closing.append(pooled)  # closed in the background, since it may hang
            raise
        return pooled

    def _problem(self, error: Exception, lease: Lease[str, Speaker] | None) -> Problem | None:
        """The candidate's problem, by an error; ``None`` if the request or a closed pool caused the error."""
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
        """Reports a failure to the breaker, and retires the candidate if the breaker opens; returns whether it does."""
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
        """Waits for the member's trial, if there is one; returns whether it ended in time."""
        trial = member.trial
        return trial is None or bool(wait_for([trial], self._load_seconds).done)

    def _try(self, member: _Member, permit: Permit, trial: Future[Problem | None]) -> None:
        """Main function of a trial's thread: loads a candidate, or probes it if it is in memory."""
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
            if isinstance(error, LoadTimeoutError):  # the next trial starts another load
                member.stamp = directory_stamp(member.candidate.folder)
                with self._pool.changing():
                    self._pool.loads.pop(name, None)
            if problem is None:
                permit.cancel()
            elif not self._fail(member, permit, problem, lease) or permit.trial:
                logger.info("%s is still out of use: %s", name, problem.message)
            else:
                self._report(member.candidate, problem.kind, problem.message, None)
        else:
            if permit.success():
                member.problem = None
                self._report(member.candidate, "taken back", "it is loaded again and passes its probe", None)
        finally:
            if lease is not None:
                lease.close()
            trial.set_result(problem)

    def _report(self, candidate: Candidate, kind: EventKind, message: str, answered_by: str | None) -> None:
        event = StandbyEvent(time.time(), candidate.name, kind, message, answered_by)
        if kind == "taken back":
            logger.warning("%s is in use again: %s", candidate.name, message)
        else:
            answer = "no candidate answered instead" if answered_by is None else f"{answered_by} answered instead"
            logger.warning("%s is out of use: %s: %s; %s", candidate.name, kind, message, answer)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("on_event failed")


def _probe(candidate: Candidate, speaker: Speaker) -> None:
    if not isinstance(speaker, Vocoder):
        return
    try:
        require_probe(speaker)
    except NoProbeError as error:
        logger.warning("%s is used without a probe: %s", candidate.name, error)


def usual_candidates(
    path: str | Path | None = None,
    backends: Sequence[tuple[str, LoadPrecision | None]] = (("auto", None), ("onnxruntime", None)),
    *,
    threads: int | None = None,
    cache: str | Path | None = None,
    griffin_lim: bool = True,
) -> list[Candidate]:
    """Candidates of one model: several backends, and Griffin-Lim as the last.

    Args:
        path: a model directory; ``None`` is the shipped voice.
        backends: name and precision, in order of preference, as in
            ``[("tensorrt_rtx", "fp16"), ("cuda", "fp32"), ("onnxruntime", None)]``.
        threads: as for `wavernn_trt.runtime.vocoder.Vocoder.load`.
        cache: likewise.
        griffin_lim: whether to add Griffin-Lim, which works without the model; needs the extra ``fallback``.

    Raises:
        ModelDirectoryError: the model's audio settings cannot be read.
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
        audio = read_audio(folder)  # now, because the directory may be damaged later
        candidates.append(Candidate("griffin-lim", partial(GriffinLim, audio), degraded=True))
    return candidates
