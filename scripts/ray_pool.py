"""``vocode --ray``: starts or joins a Ray cluster, and runs jobs on a pool of vocoder actors."""

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
from wavernn_trt.runtime.executors.onnx_runtime import usable_cores
from wavernn_trt.runtime.files.output_files import is_finished
from wavernn_trt.runtime.jobs.plan import Job
from wavernn_trt.runtime.jobs.result import JobOptions, JobResult, JobsStopped, Progress, Stop
from wavernn_trt.runtime.loaded_model import DEFAULT_BATCH
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts import notice
from wavernn_trt.scripts.interruption import Interrupted
from wavernn_trt.scripts.ray_actor import Rows, VocoderActor, to_rows
from wavernn_trt.scripts.vocode_report import Outcome, Start

logger = logging.getLogger(__name__)

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage reports
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # this program reports failures itself
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's announced future default
}
"""Environment that makes Ray log errors only; variables that are already set are kept."""
_OBJECT_STORE = 100 << 20
"""Bytes of shared memory of a local Ray: it passes names and numbers only, waveforms go to files."""
_CALLS = 2
"""Concurrent calls of an actor: the next call's utterances fill the slots that a call's last ones leave free."""
_SLOTS_FILLED = 2
"""Jobs per call, as a multiple of the slots: with more, workers finish far apart; with fewer, Ray's overhead grows."""
_MOST_CALLS = 20_000
"""Largest number of calls of a run; each costs about a millisecond in Ray."""
_RETRIES = 2
"""Retries of a call whose worker died. Jobs that fail in all of them are then tried one by one, with as many."""
_ANSWER_SECONDS = 10.0
"""Timeout for connecting to a cluster."""


@dataclass(frozen=True)
class Pool:
    """The requested workers."""

    address: str | None = None
    """Of a cluster, as for ``ray.init``; ``None`` starts a Ray on this machine."""
    actors: int | None = None
    """``None``: as many as fit."""
    cpus: float = 1.0
    """CPU cores per actor."""
    gpus: float | None = None
    """GPUs per actor; ``None``: one if the cluster has GPUs and the backend can use them."""


@contextmanager
def start_on_ray(arguments: argparse.Namespace, jobs: Sequence[Job], options: JobOptions) -> Iterator[Start]:
    """Opens a pool of workers in a context. If all jobs are already done, it starts none.

    Args:
        arguments: of ``vocode``.
        jobs: from `plan_jobs`.
        options: of all jobs.

    Yields:
        A function that starts the run. A request to stop raises `Interrupted` in it, as Ray's waiting calls cannot
        check for the request.

    Raises:
        VocoderError: as for `open_pool`.
    """
    finished: list[int] = []
    left: list[int] = []
    for number, job in enumerate(jobs):
        (left if options.overwrite or not is_finished(job.output) else finished).append(number)

    def outcomes(progress: Progress, run: Iterable[Outcome]) -> Generator[Outcome, None, None]:
        for number in finished:
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
            notice(f"{len(left)} files to vocode, workers on Ray: {pool.actors}")

        def start(progress: Progress, stop: Stop) -> Generator[Outcome, None, None]:
            stop.watch(_interrupt)
            return outcomes(progress, pool.run(jobs, left, load, options, arguments.batch or DEFAULT_BATCH))

        yield start


def _interrupt() -> None:
    raise Interrupted


def _absolute(given: Path | None) -> Path | None:
    return None if given is None else given.absolute()


class RayPool:
    """A pool of actors in a running Ray; made by `open_pool`."""

    def __init__(self, ray: Any, data: Any, actors: int, cpus: float, gpus: float) -> None:
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
        """Runs jobs whose outputs do not exist yet.

        A job whose worker dies is retried; an output that it had already written counts as done. Jobs that fail in all
        retries are then tried one by one, so that a job that kills its worker does not affect others.

        Args:
            jobs: from `plan_jobs`.
            numbers: of the jobs to run.
            load: makes a worker's vocoder; it is pickled.
            options: of all jobs.
            slots: utterances that a worker decodes together.

        Yields:
            Every job once, in the order they end.

        Raises:
            VocoderError: a worker cannot load the model, or Ray failed.
            JobsStopped: outputs can no longer be written.
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
                if row["number"] in left:  # otherwise an earlier attempt has reported it
                    left.remove(row["number"])
                    yield _outcome(jobs[row["number"]], row)
        for number in sorted(left):
            error = "its worker died or failed in every attempt; see Ray's logs, or the kernel's if memory ran out"
            yield Outcome(JobResult(jobs[number], "failed", error=error))

    def _rows(
        self, blocks: Sequence[Rows], load: Callable[[], Vocoder], options: JobOptions, calls: int
    ) -> Iterator[dict[str, Any]]:
        """Yields the actors' outcomes; none for blocks whose worker died in every attempt."""
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
            # Ray 2.64 is going to remove this way to set max_task_retries, and has no other yet. Without it, jobs that
            # kill their worker would be retried for ever. With 0, jobs sent to a worker that is being restarted would
            # be lost.
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
            raise VocoderError(f"Ray failed: {reason[0]}; finished files are kept, and a rerun continues") from error
        finally:
            # An actor that was being restarted when the last block was done would stay, with its share of the cluster,
            # and the next run would wait for it for ever.
            for name in names:
                with suppress(ValueError, self._ray.exceptions.RayError):  # the actor or Ray has already ended
                    self._ray.kill(self._ray.get_actor(name))


def _outcome(job: Job, row: Mapping[str, Any]) -> Outcome:
    samples, status = row["samples"], row["status"]
    if status == "skipped":  # written by an earlier attempt, whose worker died
        import soundfile

        samples, status = soundfile.info(job.output).frames, "done"
    result = JobResult(job, status, samples, row["elapsed"], row["error"], warnings=tuple(row["warnings"]))
    return Outcome(result, row["backend"], row["engine"], row["precision"])


@contextmanager
def open_pool(pool: Pool, backend: str) -> Iterator[RayPool]:
    """Joins a cluster or starts a Ray on this machine, and leaves it at the end of the context.

    If this process has already joined a Ray, that one is used and not left.

    Args:
        pool: the requested workers.
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
            f"--ray needs Ray with its Data library ({error}); install it: pip install '.[ray]' in a clone of the "
            "project, or pip install 'ray[data]'"
        ) from None
    owned = not ray.is_initialized()
    if owned:
        _connect(ray, pool)
    try:
        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = -1  # drops blocks whose worker died in every attempt; `RayPool.run` handles them
        yield RayPool(ray, data, *_size(pool, ray.cluster_resources(), backend))
    finally:
        if owned:
            ray.shutdown()


def _connect(ray: Any, pool: Pool) -> None:
    common: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if pool.address is None:
        common |= {
            "address": "local",
            "num_cpus": max(usable_cores(), math.ceil((pool.actors or 1) * pool.cpus)),
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
    """Raises a VocoderError if no process listens at the address; Ray would retry for minutes."""
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
    """Holds back native output to stderr, such as Ray's log level, and prints it only if the context raises."""
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
    """Returns the number of actors, and the CPU cores and GPUs of each."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    own_gpus = pool.gpus
    if own_gpus is None:
        own_gpus = 1.0 if gpus and backend.replace("-", "_") not in ("native", "onnxruntime", "torch") else 0.0
    room = [int(total // each) for total, each in ((cpus, pool.cpus), (gpus, own_gpus)) if each]
    most = min(room, default=1)
    actors = pool.actors or most
    if actors > most or not most:
        wanted = f"{max(actors, 1)} of {pool.cpus:g} CPUs and {own_gpus:g} GPUs each"
        found = f"{cpus:g} CPUs and {gpus:g} GPUs"
        if pool.address is None or not most:
            raise VocoderError(f"actors: found {found} in Ray, expected room for {wanted}; use fewer or smaller actors")
        logger.warning("%s do not fit into %s; some start now, the others when the cluster grows", wanted, found)
    return actors, pool.cpus, own_gpus
