"""``vocode --ray`` writes the same bytes as without Ray, even where workers die.

The first tests start Ray with two workers on this machine; the others need no Ray.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from small_voice import SAMPLE_MEL

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.jobs.pipeline import run_jobs
from wavernn_trt.runtime.jobs.plan import Job, plan_jobs
from wavernn_trt.runtime.jobs.result import JobOptions, JobResult, JobsStopped
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts import cli, ray_actor, ray_pool
from wavernn_trt.scripts.ray_actor import Rows, VocoderActor, to_rows
from wavernn_trt.scripts.ray_pool import Pool, RayPool, open_pool

Capture = pytest.CaptureFixture[str]
MakeMel = Callable[..., NDArray[np.float32]]
SECONDS = 120
"""Ray starts within about ten on an idle machine."""


def sources(folder: Path, count: int) -> list[Path]:
    """Mels of the shipped voice, of different lengths."""
    mel = np.load(SAMPLE_MEL)
    folder.mkdir()
    for number in range(count):
        np.save(folder / f"{number}.npy", mel[:, 3 * number : 5 + 5 * number])
    return sorted(folder.iterdir())


def load() -> Vocoder:
    return Vocoder.load(backend="onnxruntime", threads=1)


def main(arguments: Sequence[str]) -> int:
    return cli.main(["vocode", "--ray", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with room for two workers; the product starts it and writes nothing meanwhile."""
    pytest.importorskip("ray.data", reason="needs Ray with its Data library (the extra 'ray')")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written, ExitStack() as stack:
        os.dup2(written.fileno(), 2)
        try:
            stack.enter_context(open_pool(Pool(actors=2), "onnxruntime"))
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        written.seek(0)
        assert written.read() == b""
        yield importlib.import_module("ray")


def vocode_in_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, "-m", "wavernn_trt.scripts.cli", "vocode", "--ray", *arguments],
        capture_output=True, text=True, env=environment, timeout=SECONDS,
    )  # fmt: skip


def test_two_workers_write_the_same_files_as_one_machine_and_a_bad_mel_stops_no_other(ray: Any, tmp_path: Path) -> None:
    sources(tmp_path / "mels", 10)
    (tmp_path / "mels" / "bad.npy").write_bytes(b"no mel")
    alone = ["vocode", str(tmp_path / "mels"), "-o", str(tmp_path / "alone"), "--seed", "3", "-q"]
    assert cli.main(alone) == 1
    report = tmp_path / "report.jsonl"
    workers = ("--address", ray.get_runtime_context().gcs_address, "--actors", "2")
    finished = vocode_in_process(tmp_path / "mels", "-o", tmp_path / "out", "--seed", "3", "--report", report, *workers)
    assert finished.returncode == 1, finished.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert len(contents(tmp_path / "out")) == 10
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {line["input"]: line["status"] for line in lines} == {
        str(file): "failed" if file.name == "bad.npy" else "done" for file in (tmp_path / "mels").iterdir()
    }
    assert all(line["samples"] > 0 and line["rtf"] > 0 and line["seed"] == 3 for line in lines if not line["error"])
    assert {line["backend"] for line in lines} <= {"native", "onnxruntime"}
    assert finished.stdout == ""
    errors = finished.stderr.replace("\r", "\n").splitlines()
    failed, summary = (line for line in errors if line.strip() and "files " not in line)  # no other lines, as of Ray
    assert failed.startswith(f"wavernn-trt: failed: {tmp_path / 'mels' / 'bad.npy'}: not an array")
    assert summary.startswith("wavernn-trt: 10 done, 1 failed; ")
    assert summary.endswith(", on Ray)")
    assert not [name for name in os.listdir(tmp_path / "out") if not name.endswith(".wav")]


def test_a_rerun_continues_where_the_first_run_stopped(ray: Any, tmp_path: Path, capsys: Capture) -> None:
    sources(tmp_path / "mels", 5)
    arguments = [str(tmp_path / "mels"), "-o", str(tmp_path / "out")]
    assert cli.main(["vocode", *arguments, "-q"]) == 0
    whole = contents(tmp_path / "out")
    (tmp_path / "out" / "1.wav").unlink()
    (tmp_path / "out" / "3.wav").unlink()
    (tmp_path / "out" / "4.wav").write_bytes(b"finished earlier")
    (tmp_path / "out" / ".0123456789ab.part").write_bytes(b"an unfinished file of a killed process")
    assert main([*arguments, "--actors", "1"]) == 0
    assert "2 done, 3 skipped" in capsys.readouterr().err
    assert contents(tmp_path / "out") == {**whole, "4.wav": b"finished earlier"}
    assert ray.is_initialized(), "a Ray that the run did not start is not shut down"


class DyingActor(VocoderActor):
    """Its process is killed once after the first file, and every time that it gets the file poison.npy."""

    def __call__(self, rows: Rows) -> dict[str, list[str]]:
        marker = Path(json.loads(rows["job"][0])["output"]).parents[1] / "died"
        if not marker.exists():
            marker.touch()
            super().__call__({"job": rows["job"][:1]})
            os.kill(os.getpid(), signal.SIGKILL)
        if any("poison" in job for job in rows["job"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(rows)


def test_jobs_of_a_killed_worker_run_again_and_each_has_one_result(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import this file
    monkeypatch.setattr(ray_pool, "VocoderActor", DyingActor)
    monkeypatch.setattr(ray_pool, "_RETRIES", 1)
    files = sources(tmp_path / "mels", 6)
    files[4] = files[4].rename(tmp_path / "mels" / "poison.npy")
    jobs = plan_jobs(files, tmp_path / "out")
    with open_pool(Pool(actors=2), "onnxruntime") as pool:
        ended = list(pool.run(jobs, range(6), load, JobOptions()))
    assert ray.is_initialized()
    assert (tmp_path / "died").exists()
    assert sorted(str(one.result.job.input) for one in ended) == sorted(map(str, files))
    failed = {one.result.job.input.name: one.result.error for one in ended if one.result.status != "done"}
    assert list(failed) == ["poison.npy"]
    assert "its worker died or failed" in str(failed["poison.npy"])
    vocoder = load()
    for one in ended:
        if one.result.status == "done":
            assert one.result.samples == vocoder.vocode(np.load(one.result.job.input)).size
            assert (one.backend, one.engine) == ("onnxruntime", None)
    assert {file.name for file in (tmp_path / "out").glob("*.wav")} == {f"{n}.wav" for n in (0, 1, 2, 3, 5)}


@pytest.fixture
def folder(tiny_voice: Path, tiny_vocoder: Vocoder, tiny_mel: MakeMel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with in/a.npy and in/b.npy; workers too load the tiny voice."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(Vocoder, "load", lambda *_, **__: tiny_vocoder)
    Path("in").mkdir()
    for frames, name in enumerate("ab", 4):
        np.save(f"in/{name}.npy", tiny_mel(frames))
    return tiny_voice


def outcomes_of(actor: VocoderActor, rows: Rows) -> list[dict[str, Any]]:
    return list(map(json.loads, actor(rows)["outcome"]))


def test_a_worker_writes_the_same_files_as_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        {"input": "in/a.npy", "seed": 2**64 - 1, "sample_rate": 16000},
        {"input": "in/b.npy", "sample_rate": 22050},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = to_rows(plan_jobs([Path("list.jsonl")], Path("out")), [0, 1])
    assert cli.main(["vocode", "list.jsonl", "-o", "alone", "-q"]) == 1
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # workers have folders of their own
    outcomes = outcomes_of(VocoderActor(Vocoder.load, JobOptions()), rows)
    assert contents(folder / "out" / "in") == contents(folder / "alone" / "in")
    assert {one["number"]: (one["status"], one["samples"]) for one in outcomes} == {0: ("done", 160), 1: ("failed", 0)}
    assert [one["number"] for one in outcomes if "22050 Hz" in (one["error"] or "")] == [1]


def test_warnings_of_a_worker_are_in_its_result(folder: Path) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.random.default_rng(0).uniform(-0.5, 0.5, 2000), 16000, format="WAV")
    Path("in/cut.wav").write_bytes(content.getvalue()[:2044])
    jobs = plan_jobs([Path("in/cut.wav")], Path("out"))
    (outcome,) = outcomes_of(VocoderActor(Vocoder.load, JobOptions()), to_rows(jobs, [0]))
    result = ray_pool._outcome(jobs[0], outcome).result
    assert result.status == "done"
    assert result.warnings == ("cut short: found 0.06 s of the 0.12 s that its header states",)


def test_a_worker_that_cannot_load_the_model_ends_the_run_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise VocoderError("there is no model")

    monkeypatch.setattr(Vocoder, "load", refuse)
    jobs = plan_jobs([Path("in")], Path("out"))
    outcomes = outcomes_of(VocoderActor(Vocoder.load, JobOptions()), to_rows(jobs, [0, 1]))
    pool = RayPool(None, None, 1, 1.0, 0.0)
    monkeypatch.setattr(pool, "_rows", lambda *_: iter(outcomes))
    with pytest.raises(VocoderError, match="a worker cannot start: there is no model"):
        list(pool.run(jobs, [0, 1], load, JobOptions()))


@pytest.fixture
def worker_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker in this process instead of Ray; each call has one job."""

    class LocalPool(RayPool):
        def _rows(self, blocks: Sequence[Rows], load: Any, options: JobOptions, *_: int) -> Iterator[Any]:
            actor = VocoderActor(load, options)
            for block in blocks:
                for job in block["job"]:
                    yield from outcomes_of(actor, {"job": [job]})

    monkeypatch.setattr(ray_pool, "open_pool", lambda *_: nullcontext(LocalPool(None, None, 1, 1.0, 0.0)))


@pytest.mark.usefixtures("worker_in_this_process")
def test_a_full_disk_ends_the_run_and_the_next_run_continues(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def until_the_disk_is_full(vocoder: Vocoder, jobs: list[Job], *rest: Any) -> Iterator[JobResult]:
        if jobs[0].input.name == "b.npy":
            raise JobsStopped("out/b.wav: No space left on device; free some space")
        yield from run_jobs(vocoder, jobs, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(ray_actor, "run_jobs", until_the_disk_is_full)
        assert main(["in", "-o", "out", "--report", "report.jsonl"]) == 1
    error = capsys.readouterr().err
    assert "error: out/b.wav: No space left on device; free some space; then run the same command again" in error
    assert "1 done, 1 left for the next run; " in error
    assert main(["in", "-o", "out", "--report", "report.jsonl"]) == 0
    assert "1 done, 1 skipped" in capsys.readouterr().err
    lines = [json.loads(line) for line in Path("report.jsonl").read_text().splitlines()]
    assert [(line["output"], line["status"]) for line in lines] == [
        ("out/a.wav", "done"), ("out/a.wav", "skipped"), ("out/b.wav", "done"),
    ]  # fmt: skip


@pytest.mark.usefixtures("worker_in_this_process")
def test_a_signal_ends_the_run_and_keeps_finished_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def until_the_signal(vocoder: Vocoder, jobs: list[Job], *rest: Any) -> Iterator[JobResult]:
        if jobs[0].input.name == "b.npy":
            os.kill(os.getpid(), signal.SIGTERM)
        yield from run_jobs(vocoder, jobs, *rest)

    monkeypatch.setattr(ray_actor, "run_jobs", until_the_signal)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["in", "-o", "out"]) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    error = capsys.readouterr().err
    assert "1 done, 1 left for the next run; " in error
    assert error.endswith("wavernn-trt: terminated; finished files are kept, and a rerun continues after them\n")
    assert [file.name for file in Path("out").iterdir()] == ["a.wav"]


def test_the_process_of_a_worker_whose_backend_was_given_up_exits_with_an_error(
    folder: Path, tiny_vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ProcessEnds(BaseException):
        pass

    def end(code: int) -> None:
        assert code != 0  # with 0, Ray would not run the jobs again
        raise ProcessEnds

    def given_up(*_: Any) -> Iterator[JobResult]:
        raise JobsStopped("backend torch failed 3 times in a row and was given up")
        yield

    monkeypatch.setattr(Vocoder, "state", property(lambda _: "broken"))
    monkeypatch.setattr(ray_actor, "run_jobs", given_up)
    monkeypatch.setattr(ray_actor.os, "_exit", end)
    with pytest.raises(ProcessEnds):
        VocoderActor(Vocoder.load, JobOptions())(to_rows(plan_jobs([Path("in")], Path("out")), [0, 1]))


def test_ray_is_not_needed_where_all_outputs_exist(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(ray_pool, "import_module", missing)
    arguments = ["in", "-o", "out", "--report", "report.jsonl"]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "wavernn-trt: error: --ray needs Ray with its Data library (No module named 'ray'); install it: "
        "pip install '.[ray]' in a clone of the project, or pip install 'ray[data]'\n"
    )
    assert cli.main(["vocode", *arguments[:3], "-q"]) == 0
    assert main(arguments) == 0
    assert "0 done, 2 skipped (outputs exist; --overwrite replaces them)" in capsys.readouterr().err
    assert [json.loads(line)["status"] for line in Path("report.jsonl").read_text().splitlines()] == ["skipped"] * 2


@pytest.mark.parametrize(
    ("pool", "backend", "resources", "expected"),
    [
        (Pool(), "auto", {"CPU": 4.0}, (4, 1.0, 0.0)),
        (Pool(cpus=1.5), "onnxruntime", {"CPU": 4.0, "GPU": 2.0}, (2, 1.5, 0.0)),
        (Pool(), "auto", {"CPU": 16.0, "GPU": 2.0}, (2, 1.0, 1.0)),
        (Pool(gpus=0.5), "tensorrt-rtx", {"CPU": 16.0, "GPU": 2.0}, (4, 1.0, 0.5)),
        (Pool(actors=3), "torch", {"CPU": 16.0, "GPU": 2.0}, (3, 1.0, 0.0)),
        (Pool("auto", actors=9), "onnxruntime", {"CPU": 2.0}, (9, 1.0, 0.0)),  # a cluster may grow
        (Pool(actors=3, gpus=1.0), "auto", {"CPU": 8.0, "GPU": 2.0}, "found 8 CPUs and 2 GPUs in Ray, expected room"),
        (Pool("auto", cpus=3.0), "auto", {"CPU": 2.0}, "expected room for 1 of 3 CPUs and 0 GPUs each"),
    ],
)
def test_the_number_of_workers_follows_from_the_resources_of_the_cluster(
    pool: Pool, backend: str, resources: dict[str, float], expected: tuple[int, float, float] | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(VocoderError, match=expected):
            ray_pool._size(pool, resources, backend)
    else:
        assert ray_pool._size(pool, resources, backend) == expected


def test_an_address_without_ray_is_refused_at_once() -> None:
    with pytest.raises(VocoderError, match=r"Ray at 127\.0\.0\.1:9 does not answer: Connection refused"):
        ray_pool._require_answer("127.0.0.1:9")
    ray_pool._require_answer("auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray", "--actors", "0"], "--actors: found '0', expected a positive integer"),
        (["--ray", "--gpus-per-actor", "-1"], "--gpus-per-actor: found '-1', expected a positive number"),
        (["--ray", "--model", "nowhere"], "nowhere is not there; expected a model directory"),
        (["--actors", "2"], "--actors needs --ray"),
    ],
)
def test_wrong_usage_exits_2(folder: Path, capsys: Capture, arguments: list[str], message: str) -> None:
    assert cli.main(["vocode", "in", "-o", "out", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.usefixtures("worker_in_this_process")
def test_the_former_command_works_and_names_the_new_one(folder: Path, capsys: Capture) -> None:
    from wavernn_trt.scripts.ray_vocode import main as former

    assert former(["in", "-o", "out", "--cpus-per-actor", "1"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("wavernn-trt: ray_vocode is deprecated; use 'wavernn-trt vocode --ray'")
    assert "2 done; " in error
    assert sorted(file.name for file in Path("out").iterdir()) == ["a.wav", "b.wav"]


@pytest.mark.usefixtures("worker_in_this_process")
def test_the_json_document_names_no_backend_and_has_every_file(folder: Path, capsys: Capture) -> None:
    assert main(["in", "-o", "out", "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["backend"], document["engine"]) == (None, None)
    assert {file["output"]: file["status"] for file in document["files"]} == {"out/a.wav": "done", "out/b.wav": "done"}
