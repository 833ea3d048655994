"""The progress bar, and its estimate of the remaining work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.jobs.plan import Job, plan_jobs
from wavernn_trt.runtime.jobs.result import JobResult
from wavernn_trt.scripts.progress import WorkEstimate, file_bar, job_bar, seconds_of_jobs

AUDIO = AudioConfig(sample_rate=1000, hop_length=100, win_length=200, n_fft=256)
"""A frame lasts a tenth of a second."""
SECONDS = 60


@pytest.fixture
def mels(tmp_path: Path) -> Callable[[NDArray[np.int64]], Sequence[Job]]:
    """A function (frames of each mel) -> the jobs of their files."""

    def make(frames: NDArray[np.int64]) -> Sequence[Job]:
        (tmp_path / "in").mkdir()
        for number, length in enumerate(frames.tolist()):
            np.save(tmp_path / "in" / f"{number:04d}.npy", np.zeros((1, length), np.float32))
        return plan_jobs([tmp_path / "in"], tmp_path / "out")

    return make


def estimated(jobs: Sequence[Job], *, overwrite: bool = False, **options: Any) -> WorkEstimate:
    return WorkEstimate(len(jobs), seconds_of_jobs(jobs, AUDIO, overwrite=overwrite), **options)


def test_the_work_of_a_few_files_is_read_from_their_headers(mels: Callable[..., Sequence[Job]]) -> None:
    jobs = mels(np.array([1, 20, 3, 4]))
    jobs[2].output.parent.mkdir()
    jobs[2].output.touch()
    estimate = estimated(jobs)
    assert [estimate.left(ended) for ended in range(5)] == pytest.approx([2.5, 2.4, 0.4, 0.4, 0])
    assert estimated(jobs, overwrite=True).left(0) == pytest.approx(2.8)
    jobs[1].input.write_bytes(b"no mel")
    assert estimated(jobs).left(0) == pytest.approx(0.5)


def test_the_work_of_many_files_is_estimated_from_a_sample(mels: Callable[..., Sequence[Job]]) -> None:
    frames = np.random.default_rng(0).integers(1, 40, 1500)
    frames[750:] *= 3  # as the books of a library differ
    jobs = mels(frames)
    jobs[0].output.parent.mkdir()
    for job in jobs[:300]:
        job.output.touch()
    read = 0

    def going_on() -> bool:
        nonlocal read
        read += 1
        return True

    estimate = estimated(jobs, going_on=going_on)
    assert read == 256
    work = np.where(np.arange(1500) < 300, 0, frames) / 10
    for ended in (0, 300, 600, 900, 1200):
        assert estimate.left(ended) == pytest.approx(work[ended:].sum(), rel=0.15)
    assert estimate.left(1450) == pytest.approx(work[1450:].sum(), rel=0.4)
    assert estimate.left(1500) == 0
    assert estimate.complete
    assert not estimated(jobs, going_on=lambda: False).complete


class Slow(Sequence[Job]):
    """A plan on a file system that does not respond before `answers` is set."""

    def __init__(self) -> None:
        self.requested, self.answers = threading.Event(), threading.Event()

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: Any) -> Any:
        self.requested.set()
        assert self.answers.wait(SECONDS)
        return Job(Path("nowhere.npy"), Path("nowhere.wav"), 0)


def test_the_bar_counts_files_before_the_headers_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = Slow()
    bar = job_bar(jobs, AUDIO, hidden=False, overwrite=False)
    assert jobs.requested.wait(SECONDS)
    bar.decoded(1000)
    bar.closed(JobResult(Job(Path("a"), Path("b"), 0), "done", 1000))
    jobs.answers.set()
    bar.close()
    assert "1/100000 files" in capsys.readouterr().err


def test_the_bar_shows_files_seconds_speed_and_remaining_time(
    mels: Callable[..., Sequence[Job]], capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = mels(np.array([10, 10, 20]))
    bar = job_bar(jobs, AUDIO, hidden=False, overwrite=False)
    bar.decoded(1000)
    bar.closed(JobResult(jobs[0], "done", 1000))
    bar.decoded(500)
    bar.notice("something else")
    bar.close()
    captured = capsys.readouterr().err
    last = captured.strip().split("\r")[-1]
    assert last.startswith("1/3 files  38%|")
    assert "1.5/4.0 s" in last
    assert "real-time factor 0." in last
    assert last.endswith(" left]")
    assert "wavernn-trt: something else\n" in captured


def test_a_hidden_bar_prints_nothing_and_reads_no_header(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = Slow()
    bar = job_bar(jobs, AUDIO, hidden=True, overwrite=False)
    bar.decoded(1000)
    bar.close()
    assert capsys.readouterr().err == ""
    assert not jobs.requested.is_set()


def test_a_bar_of_files_has_a_title_and_counts_each_file_up_to_the_limit(
    mels: Callable[..., Sequence[Job]], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [job.input for job in mels(np.array([10, 10, 40]))]
    with file_bar("measuring", files, AUDIO, limit=2.0) as bar:
        bar.decoded(1000)
        bar.set_title("measuring (again)")
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert last.startswith("measuring (again)  25%|")
    assert "1.0/4.0 s" in last
