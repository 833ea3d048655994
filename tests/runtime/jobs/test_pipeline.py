"""Running jobs on real files with the tiny voice: results, bounds, failures and stops."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any

import faulty_executor as faulty
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from wavernn_trt.runtime.files.output_files import WholeFile
from wavernn_trt.runtime.jobs import pipeline as job_pipeline
from wavernn_trt.runtime.jobs.pipeline import InFlightLimit, Pipeline, run_jobs
from wavernn_trt.runtime.jobs.plan import Job, plan_jobs
from wavernn_trt.runtime.jobs.result import JobOptions, JobResult, JobsStopped, Progress, Stop
from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[..., NDArray[np.float32]]
MakeJobs = Callable[..., list[Job]]
FLOATING = JobOptions(floating=True)
SECONDS = 60
"""Longer than any step of these tests takes."""


class Watched(Progress):
    """A `Progress` that records its calls."""

    def __init__(self) -> None:
        self.steps = 0
        self.results: list[JobResult] = []
        self._lock = threading.Lock()

    def decoded(self, steps: int) -> None:
        with self._lock:
            self.steps += steps

    def closed(self, result: JobResult) -> None:
        self.results.append(result)


@pytest.fixture
def mels(tmp_path: Path, tiny_mel: MakeMel) -> MakeJobs:
    """A function (count, frames) -> the jobs of ``count`` mel files with these lengths in turn."""

    def make(count: int, frames: Sequence[int] = (3, 17, 9)) -> list[Job]:
        folder = tmp_path / "in"
        folder.mkdir()
        for number in range(count):
            np.save(folder / f"{number:04d}.npy", tiny_mel(frames[number % len(frames)], seed=number))
        return list(plan_jobs([folder], tmp_path / "out", seed=3))

    return make


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    pause = threading.Event()
    while not true():
        assert time.monotonic() < until
        pause.wait(0.005)


def waveform_of(job: Job) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = soundfile.read(job.output, dtype="float32")[0]
    return samples


def unfinished(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def test_every_file_has_the_waveform_it_has_alone_and_results_come_as_files_end(
    mels: MakeJobs, tiny_vocoder_of_three: Vocoder
) -> None:
    jobs, watched = mels(12, frames=(60, 2, 2, 2)), Watched()
    results = list(run_jobs(tiny_vocoder_of_three, iter(jobs), FLOATING, watched))
    assert watched.results == results
    assert {result.job: result.status for result in results} == dict.fromkeys(jobs, "done")
    assert results[0].job != jobs[0]  # which takes as long as thirty of the others
    for result in results:
        alone = tiny_vocoder_of_three.vocode(np.load(result.job.input), seed=3)
        assert np.array_equal(waveform_of(result.job), alone)
        assert result.samples == len(alone)
        assert result.elapsed > 0
    assert watched.steps == sum(result.samples for result in results)


def test_no_more_files_are_read_than_may_be_in_flight(mels: MakeJobs, tiny_vocoder_of_three: Vocoder) -> None:
    jobs, most, read, taken = mels(60, frames=(2,)), InFlightLimit(3).files, 0, 0

    def pulled() -> Iterator[Job]:
        nonlocal read
        for job in jobs:
            read += 1
            yield job

    results = run_jobs(tiny_vocoder_of_three, pulled(), FLOATING, Watched())
    for result in results:
        assert read - taken <= most
        taken += 1
        if taken == 1:
            # While no further result is taken, all that was read is written, and nothing more is read.
            wait_until(lambda: all(job.output.exists() for job in jobs[:most]))
            assert read == most
            assert not jobs[most].output.exists()
        assert result.status == "done"
    assert (read, taken) == (60, 60)


def test_the_limit_counts_files_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_pipeline, "_MAX_BYTES", 100)
    limit, passed = InFlightLimit(1), threading.Event()
    assert limit.enter()
    assert limit.grow(60)
    assert limit.enter()

    def grow() -> None:
        assert limit.grow(60)
        passed.set()

    thread = threading.Thread(target=grow)
    thread.start()
    assert not passed.is_set()  # cannot be set before there is room
    limit.leave(60)
    assert passed.wait(SECONDS)
    limit.leave(60)
    assert limit.enter()
    assert limit.grow(1000), "a file larger than the limit enters alone"
    for _ in range(limit.files - 1):
        assert limit.enter()
    stuck = threading.Thread(target=lambda: refused.append(limit.enter()))
    refused: list[bool] = []
    stuck.start()
    limit.close()
    stuck.join(SECONDS)
    assert refused == [False]
    assert not limit.grow(1)


def test_memory_does_not_grow_with_the_number_of_finished_files(mels: MakeJobs, tiny_vocoder_of_three: Vocoder) -> None:
    jobs = mels(1)
    for output in (job.output for job in jobs):
        output.parent.mkdir()
        output.touch()

    def many(count: int) -> Iterator[Job]:
        for number in range(count):
            yield dataclasses.replace(jobs[0], seed=number)

    def peak(count: int) -> int:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        ended = sum(1 for _ in run_jobs(tiny_vocoder_of_three, many(count), JobOptions(), Progress()))
        assert ended == count
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        few, more = peak(300), peak(2000)
    finally:
        tracemalloc.stop()
    assert more < few + 1700 * 8, "less than a pointer for each file"


def test_a_corrupted_mel_fails_alone_and_only_it_is_tried_again(mels: MakeJobs, tiny_vocoder_of_three: Vocoder) -> None:
    jobs = mels(40, frames=(1, 2))
    content = jobs[17].input.read_bytes()
    jobs[17].input.write_bytes(content[: len(content) // 2])
    ended = {result.job: result for result in run_jobs(tiny_vocoder_of_three, jobs, JobOptions(), Watched())}
    assert [job for job in jobs if ended[job].status != "done"] == [jobs[17]]
    assert ended[jobs[17]].status == "failed"
    assert "not an array that can be read" in (ended[jobs[17]].error or "")
    assert [job.output.exists() for job in jobs].count(False) == 1
    again = list(run_jobs(tiny_vocoder_of_three, jobs, JobOptions(), Watched()))
    assert [result.status for result in again].count("skipped") == 39


def test_an_executor_that_fails_for_one_file_fails_that_file(mels: MakeJobs, tiny_vocoder: Vocoder) -> None:
    jobs = mels(6, frames=(2,))  # a chunk each
    executor = faulty.FaultyExecutor(tiny_vocoder.executor, raises_at=2, times=2)
    with Vocoder(dataclasses.replace(tiny_vocoder.loaded, executor=executor)) as vocoder:
        ended = {result.job: result for result in run_jobs(vocoder, jobs, FLOATING, Watched())}
    assert [ended[job].status for job in jobs] == ["done", "done", "failed", "done", "done", "done"]
    assert "injected" in (ended[jobs[2]].error or "")


def test_a_broken_executor_ends_the_run_and_the_next_run_does_the_rest(mels: MakeJobs, tiny_vocoder: Vocoder) -> None:
    jobs = mels(60, frames=(2,))
    executor = faulty.FaultyExecutor(tiny_vocoder.executor, raises_at=7)
    with Vocoder(dataclasses.replace(tiny_vocoder.loaded, executor=executor)) as vocoder:
        watched = Watched()
        with pytest.raises(JobsStopped, match="failed 3 times in a row and was given up"):
            list(run_jobs(vocoder, jobs, FLOATING, watched))
    ended = watched.results
    done = [result.job for result in ended if result.status == "done"]
    assert done == jobs[:7]
    assert len(ended) <= 7 + 1 + InFlightLimit(1).files, "those in flight, and the one that replaced the first failure"
    assert {result.status for result in ended} == {"done", "failed"}
    assert [job for job in jobs if job.output.exists()] == done
    again = [result.status for result in run_jobs(tiny_vocoder, jobs, FLOATING, Watched())]
    assert (again.count("skipped"), again.count("done")) == (7, 53)


def test_a_conditioner_that_fails_for_every_file_ends_the_run(mels: MakeJobs, tiny_vocoder: Vocoder) -> None:
    jobs, watched = mels(60, frames=(2,)), Watched()
    executor = faulty.FaultyExecutor(tiny_vocoder.executor, condition_raises=True)
    with (
        Vocoder(dataclasses.replace(tiny_vocoder.loaded, executor=executor)) as vocoder,
        pytest.raises(JobsStopped, match="failed 3 times in a row and was given up"),
    ):
        list(run_jobs(vocoder, jobs, FLOATING, watched))
    assert len(watched.results) < 60
    assert {result.status for result in watched.results} == {"failed"}
    assert not any(job.output.exists() for job in jobs)


def test_a_stopped_run_writes_what_is_decoded(mels: MakeJobs, tiny_vocoder: Vocoder) -> None:
    jobs, stop, ended = mels(60, frames=(20,)), Stop(), []
    for result in run_jobs(tiny_vocoder, jobs, FLOATING, Watched(), stop):
        ended.append(result.job)
        if len(ended) == 5:
            stop.request()
    assert 5 <= len(ended) < 60
    assert [job for job in jobs if job.output.exists()] == sorted(ended, key=lambda job: job.input)
    assert not unfinished(jobs[0].output.parent)
    wait_until(lambda: tiny_vocoder.statistics().under_way + tiny_vocoder.statistics().queue == 0)
    stopped = Stop()
    stopped.request()
    assert list(run_jobs(tiny_vocoder, jobs[len(ended) :], FLOATING, Watched(), stopped)) == []


def test_a_stop_does_not_wait_for_unfinished_decoding(mels: MakeJobs, tiny_vocoder: Vocoder) -> None:
    jobs, stop = mels(30, frames=(2,)), Stop()
    executor = faulty.FaultyExecutor(tiny_vocoder.executor, hangs_at=6)

    def stop_when_it_hangs() -> None:
        assert executor.hanging.wait(SECONDS)
        stop.request()

    watching = threading.Thread(target=stop_when_it_hangs)
    watching.start()
    with Vocoder(dataclasses.replace(tiny_vocoder.loaded, executor=executor)) as vocoder:
        ended = list(run_jobs(vocoder, jobs, FLOATING, Watched(), stop))
        executor.repair()
    watching.join(SECONDS)
    assert [result.job for result in ended] == jobs[:6]
    assert [job for job in jobs if job.output.exists()] == jobs[:6]


def test_after_a_full_disk_no_more_files_are_written(
    mels: MakeJobs, tiny_vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, tried = mels(5), []
    pipeline = Pipeline(tiny_vocoder, jobs, FLOATING, Progress())
    pipeline.read()
    wait_until(lambda: pipeline.decoded.qsize() == len(jobs))
    pipeline.decoded.put(None)
    begin = job_pipeline.begin_wav

    def full_at_the_third(path: Path, *arguments: Any, **options: Any) -> Any:
        tried.append(path)
        if len(tried) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return begin(path, *arguments, **options)

    monkeypatch.setattr(job_pipeline, "begin_wav", full_at_the_third)
    pipeline.write()
    status = {}
    with pytest.raises(JobsStopped, match=r"No space left on device; free some space$"):
        status.update((result.job, result.status) for result in pipeline.results())
    assert status == {jobs[0]: "done", jobs[1]: "done", jobs[2]: "failed"}
    assert tried == [job.output for job in jobs[:3]]
    assert [job.output.exists() for job in jobs] == [True, True, False, False, False]
    assert not unfinished(jobs[0].output.parent)


def test_closing_the_results_ends_the_run(mels: MakeJobs, tiny_vocoder: Vocoder) -> None:
    jobs = mels(60, frames=(20,))
    results = run_jobs(tiny_vocoder, jobs, FLOATING, Watched())
    assert len(list(islice(results, 3))) == 3
    results.close()
    there = sum(job.output.exists() for job in jobs)
    assert 3 <= there < 60
    assert not unfinished(jobs[0].output.parent)
    assert not [
        thread.name for thread in threading.enumerate() if thread.name in ("wavernn-trt reader", "wavernn-trt writer")
    ]


def test_an_error_of_the_iterator_over_jobs_is_raised(mels: MakeJobs, tiny_vocoder: Vocoder) -> None:
    jobs, watched = mels(3), Watched()

    def broken() -> Iterator[Job]:
        yield from jobs
        raise LookupError("the list is gone")

    with pytest.raises(LookupError, match="the list is gone"):
        list(run_jobs(tiny_vocoder, broken(), FLOATING, watched))
    assert {result.status for result in watched.results} <= {"done"}


@pytest.fixture
def all_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of any length are written while they are decoded."""
    monkeypatch.setattr(job_pipeline, "_LONG_SECONDS", 0.0)


def test_a_long_file_that_is_written_while_it_is_decoded_has_the_same_bytes(
    mels: MakeJobs, tiny_vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = mels(3)
    assert [result.status for result in run_jobs(tiny_vocoder, jobs, JobOptions(), Watched())] == ["done"] * 3
    whole = [job.output.read_bytes() for job in jobs]
    monkeypatch.setattr(job_pipeline, "_LONG_SECONDS", 0.0)
    monkeypatch.setattr(job_pipeline, "begin_wav", None)  # not used
    results = list(run_jobs(tiny_vocoder, jobs, JobOptions(overwrite=True), Watched()))
    assert [job.output.read_bytes() for job in jobs] == whole
    hop = tiny_vocoder.config.audio.hop_length
    assert {result.job: result.samples for result in results} == {
        job: hop * frames for job, frames in zip(jobs, (3, 17, 9), strict=True)
    }


def test_a_full_disk_during_a_long_file_ends_the_run_and_leaves_no_part_of_it(
    mels: MakeJobs, tiny_vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch, all_long: None
) -> None:
    jobs = mels(1, frames=(60,))
    write, written = WholeFile.write, []

    def full_at_the_third(file: WholeFile, content: Any) -> None:
        written.append(content)
        if len(written) == 3:  # the header, and a chunk, are there
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.path))
        write(file, content)

    monkeypatch.setattr(WholeFile, "write", full_at_the_third)
    results = []
    with pytest.raises(JobsStopped, match=r"No space left on device; free some space$"):
        results.extend(run_jobs(tiny_vocoder, jobs, JobOptions(), Watched()))
    assert [result.status for result in results] == ["failed"]
    assert not jobs[0].output.exists()
    assert not unfinished(jobs[0].output.parent)


def test_a_stop_in_the_middle_of_a_long_file_leaves_no_part_of_it(
    mels: MakeJobs, tiny_vocoder: Vocoder, all_long: None
) -> None:
    jobs, stop = mels(2, frames=(3, 4000)), Stop()
    results = run_jobs(tiny_vocoder, jobs, JobOptions(), Watched(), stop)
    assert next(results).job == jobs[0]
    wait_until(lambda: bool(unfinished(jobs[1].output.parent)))
    stop.request()
    assert list(results) == []
    assert not jobs[1].output.exists()
    assert not unfinished(jobs[1].output.parent)


def test_a_long_file_whose_result_is_cancelled_or_not_taken_leaves_no_part(
    mels: MakeJobs, tiny_vocoder: Vocoder, all_long: None
) -> None:
    jobs = mels(2)
    pipeline = Pipeline(tiny_vocoder, jobs, JobOptions(), Progress())
    pipeline.read()
    wait_until(lambda: pipeline.decoded.qsize() == len(jobs))
    folder = jobs[0].output.parent
    assert len(list(unfinished(folder))) == 2
    entry, _ = pipeline.decoded.get()
    cancelled: Future[NDArray[np.float32]] = Future()
    cancelled.cancel()
    assert pipeline._begin(entry, cancelled) is None
    assert len(list(unfinished(folder))) == 1
    pipeline.discard_decoded()
    assert not unfinished(folder)
