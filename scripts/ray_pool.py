"""``vocode --ray``: starts or joins a Ray, and runs jobs on a pool of vocoder actors."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import socket
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.output_files import is_finished
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobOptions, JobResult, JobsStopped, Progress, Stop
from wavernn_trt.runtime.loaded_model import DEFAULT_BATCH
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.interruption import Interrupted
from wavernn_trt.scripts.ray_actor import Rows, VocoderActor, to_rows
from wavernn_trt.scripts.vocode_report import Outcome, Start

logger = logging.getLogger(__name__)

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage reports
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # failures are reported once, by this program
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the behaviour that Ray announces to become its default
}
"""Environment of a Ray that logs no more than errors; variables that are set already stay."""
_OBJECT_STORE = 100 << 20
"""Bytes of shared memory of a Ray of our own: rows are names and numbers, waveforms go to files."""
_CALLS = 2
"""Calls of an actor at a time: while one's last utterances are decoded, the next one's fill the free slots."""
_SLOTS_FILLED = 2
"""How many times its slots a call has jobs for: with more, workers end far apart; with fewer, Ray has more to do."""
_MOST_CALLS = 20_000
"""Calls in all, at about a millisecond of Ray's own work each."""
_RETRIES = 2
"""How often jobs whose worker died are given to another; then each is tried alone, as often."""
_ANSWER_SECONDS = 10.0
"""How long a cluster may take to accept a connection."""


@dataclass(frozen=True)
class Pool:
    """Which workers there are to be."""

    address: str | None = None
    """Of a cluster, as ``ray.init`` takes it; ``None`` is a Ray of our own, on this machine."""
    actors: int | None = None
    """``None``: as many as there is room for."""
    cpus: float = 1.0
    """CPU cores of an actor."""
    gpus: float | None = None
    """GPUs of an actor; ``None``: one where the cluster has any and the backend may use them."""


@contextmanager
def start_on_ray(arguments: argparse.Namespace, jobs: Sequence[Job], options: JobOptions) -> Iterator[Start]:
    """Opens a pool for as long as the context lasts. Where all jobs are done already, no worker starts.

    Args:
        arguments: of ``vocode``.
        jobs: from `plan_jobs`.
        options: of all jobs.

    Yields:
        A function that begins the run. It takes SIGTERM as it takes Ctrl-C: Ray waits where a request to stop is not
        noticed, so that the run ends with an `Interrupted` there.

    Raises:
        VocoderError: as for `open_pool`.
    """
    there: list[int] = []
    left: list[int] = []
    for number, job in enumerate(jobs):
        (left if options.overwrite or not is_finished(job.output) else there).append(number)

    def outcomes(progress: Progress, run: Iterable[Outcome]) -> Generator[Outcome, None, None]:
        for number in there:
            progress.closed(result := JobResult(jobs[number], "skipped"))
            yield Outcome(result)
        for outcome in run:
            if outcome.result.status == "done":
                progress.decoded(outcome.result.samples)
            progress.closed(outcome.result)
            yield outcome

    if not left:
        yield lambda progress, _: outcomes(progress, [])
        return
    cpus: float = arguments.cpus_per_actor or 1.0
    load = partial(
        Vocoder.load,
        _absolute(arguments.model),
        arguments.backend,
        batch=arguments.batch,
        threads=arguments.threads or max(1, int(cpus)),
        precision=arguments.precision,
        cache=_absolute(arguments.cache),
        limits=SchedulerLimits(lanes=arguments.lanes),
    )
    wanted = Pool(arguments.address or os.environ.get("RAY_ADDRESS"), arguments.actors, cpus, arguments.gpus_per_actor)
    with open_pool(wanted, arguments.backend) as pool:
        if not arguments.quiet:
            print(f"{PROGRAM}: {len(left)} files to vocode, workers on Ray: {pool.actors}", file=sys.stderr)

        def start(progress: Progress, stop: Stop) -> Generator[Outcome, None, None]:
            stop.watch(_interrupt)
            return outcomes(progress, pool.run(jobs, left, load, options, arguments.batch or DEFAULT_BATCH))

        yield start


def _interrupt() -> None:
    raise Interrupted


def _absolute(given: Path | None) -> Path | None:
    return None if given is None else given.absolute()


class RayPool:
    """Actors in a Ray that is there; see `open_pool`."""

    def __init__(self, ray: Any, data: Any, actors: int, cpus: float, gpus: float) -> None:
        """Takes Ray's modules and the numbers; `open_pool` finds them."""
        self._ray = ray
        self._data = data
        self.actors = actors
        self._cpus = cpus
        self._gpus = gpus

    def run(
        self,
        jobs: Sequence[Job],
        numbers: Iterable[int],
        load: Callable[[], Vocoder],
        options: JobOptions,
        slots: int = DEFAULT_BATCH,
    ) -> Iterator[Outcome]:
        """Runs jobs whose outputs are not there yet.

        A job whose worker dies is run again; what was already written then counts as done. Jobs that were lost more
        often are tried each alone, so that one which kills its worker takes no others with it.

        Args:
            jobs: from `plan_jobs`.
            numbers: of those that are to be run.
            load: makes a worker's vocoder; it is pickled.
            options: of all jobs.
            slots: utterances that a worker decodes together.

        Yields:
            Every job once, as they end.

        Raises:
            VocoderError: a worker cannot load the model, or Ray gave up.
            JobsStopped: no further output can be written.
        """
        left = set(numbers)
        enough = max(_SLOTS_FILLED * slots, -(-len(left) // _MOST_CALLS))
        together = max(1, min(enough, len(left) // (_CALLS * self.actors)))
        for size, calls in ((together, _CALLS), (1, 1)):
            if not left:
                return
            ordered = sorted(left)
            blocks = [to_rows(jobs, ordered[first : first + size]) for first in range(0, len(ordered), size)]
            for row in self._rows(blocks, load, options, calls):
                if "refusal" in row:
                    raise VocoderError(f"a worker cannot start: {row['refusal']}")
                if "stopped" in row:
                    raise JobsStopped(row["stopped"])
                if row["number"] in left:  # else it is known from an attempt before
                    left.remove(row["number"])
                    yield _outcome(jobs[row["number"]], row)
        for number in sorted(left):
            error = "its worker died or failed each time; Ray's logs may say why, or the kernel's if memory ran out"
            yield Outcome(JobResult(jobs[number], "failed", error=error))

    def _rows(
        self, blocks: Sequence[Rows], load: Callable[[], Vocoder], options: JobOptions, calls: int
    ) -> Iterator[dict[str, Any]]:
        """What the actors return, one by one; nothing for blocks whose worker died too often."""
        arrow = import_module("pyarrow")
        names: list[str] = []

        def name_actor() -> dict[str, str]:
            names.append(f"wavernn-trt-{uuid.uuid4().hex}")
            return {"name": names[-1]}

        compute = self._data.ActorPoolStrategy(
            size=min(self.actors, len(blocks)),
            max_concurrent_calls_per_actor=calls,
            max_tasks_in_flight_per_actor=calls,
            enable_true_multi_threading=calls > 1,
        )
        with warnings.catch_warnings():
            # Ray means to take this way of saying max_task_retries away in 2.64, and has no other yet. Without it, jobs
            # that kill their worker would be retried for ever; were it 0, those that are sent to a worker which is just
            # being started again would be lost.
            warnings.simplefilter("ignore", DeprecationWarning)
            dataset = self._data.from_arrow([arrow.table(block) for block in blocks]).map_batches(
                VocoderActor,
                ray_remote_args_fn=name_actor,
                batch_size=None,
                fn_constructor_args=(load, options),
                compute=compute,
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_task_retries=_RETRIES,
            )
        try:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                yield from map(json.loads, batch["outcome"])
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise VocoderError(f"Ray gave up: {reason[0]}; finished files are kept, and a rerun goes on") from error
        finally:
            # An actor that was being started again when the last block was done stays, and so does its share of the
            # cluster: the next run would wait for it for ever.
            for name in names:
                with suppress(ValueError, self._ray.exceptions.RayError):  # it is gone, as it should be, or Ray is
                    self._ray.kill(self._ray.get_actor(name))


def _outcome(job: Job, row: Mapping[str, Any]) -> Outcome:
    samples, status = row["samples"], row["status"]
    if status == "skipped":  # an earlier attempt, whose worker died, has written it
        import soundfile

        samples, status = soundfile.info(job.output).frames, "done"
    result = JobResult(job, status, samples, row["elapsed"], row["error"], warnings=tuple(row["warnings"]))
    return Outcome(result, row["backend"], row["engine"])


@contextmanager
def open_pool(pool: Pool, backend: str) -> Iterator[RayPool]:
    """Joins a cluster or starts a Ray on this machine, for as long as the context lasts.

    A Ray that this process has joined before is used as it is, and stays.

    Args:
        pool: what is asked for.
        backend: of the actors, which decides whether they may use GPUs.

    Raises:
        VocoderError: Ray is not installed, does not answer, or has no room for an actor.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        ray, data = import_module("ray"), import_module("ray.data")
    except ImportError as error:
        raise VocoderError(
            f"this needs Ray with its Data library ({error}); install it: pip install '.[ray]' in a clone of the "
            "project, or pip install 'ray[data]'"
        ) from None
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, pool)
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = -1  # a block whose worker died too often is left out, and missed by `RayPool.run`
        yield RayPool(ray, data, *_size(pool, ray.cluster_resources(), backend))
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, pool: Pool) -> None:
    common: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if pool.address is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        common |= {
            "address": "local",
            "num_cpus": max(cores, math.ceil((pool.actors or 1) * pool.cpus)),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
        }
    else:
        common["address"] = pool.address
        _require_answer(pool.address)
    try:
        with _native_stderr_kept():
            ray.init(**common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = "on this machine does not start" if pool.address is None else f"at {pool.address} does not answer"
        raise VocoderError(f"Ray {where}: {error}") from None


def _require_answer(address: str) -> None:
    """Refuses an address where no process listens; Ray would try for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = place.port
    except ValueError:
        port = None
    if place.hostname is None or port is None:
        return  # such as "auto"
    try:
        socket.create_connection((place.hostname, port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise VocoderError(f"Ray at {address} does not answer: {error.strerror or error}") from None


@contextmanager
def _native_stderr_kept() -> Iterator[None]:
    """Keeps back what libraries write to the process's stderr, to show it only if the work fails.

    Ray's core announces there which log level it was given.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        try:
            os.dup2(kept.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(stderr, 2)
        except BaseException:
            kept.seek(0)
            os.write(2, kept.read())
            raise
        finally:
            os.close(stderr)


def _size(pool: Pool, resources: Mapping[str, float], backend: str) -> tuple[int, float, float]:
    """Actors, and an actor's CPU cores and GPUs."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    own_gpus = pool.gpus
    if own_gpus is None:
        own_gpus = 1.0 if gpus and backend.replace("-", "_") not in ("onnxruntime", "torch") else 0.0
    room = [int(there // wanted) for there, wanted in ((cpus, pool.cpus), (gpus, own_gpus)) if wanted]
    most = min(room, default=1)
    actors = pool.actors or most
    if actors > most or not most:
        wanted = f"{max(actors, 1)} of {pool.cpus:g} CPUs and {own_gpus:g} GPUs each"
        found = f"{cpus:g} CPUs and {gpus:g} GPUs"
        if pool.address is None or not most:
            raise VocoderError(
                f"actors: found {found} in Ray, expected room for {wanted}; ask for fewer or smaller ones"
            )
        logger.warning(
            "%s do not fit into %s; those that do begin, the others wait for the cluster to grow", wanted, found
        )
    return actors, pool.cpus, own_gpus
