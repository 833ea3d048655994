"""``wavernn-trt vocode`` on the tiny voice: outputs, reports, failures, interruption and wrong usage."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from wavernn_trt.export.model_directory import MANIFEST, file_sha256
from wavernn_trt.runtime.jobs.pipeline import Pipeline
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts import vocode_run
from wavernn_trt.scripts.cli import main
from wavernn_trt.scripts.vocode_report import JsonDocument

Capture = pytest.CaptureFixture[str]
MakeMel = Callable[..., NDArray[np.float32]]
RATE, HOP = 16000, 40


@pytest.fixture
def folder(tiny_voice: Path, tiny_mel: MakeMel) -> Path:
    """The working folder, with in/a.wav, in/deep/b.flac and in/c.npy."""
    Path("in/deep").mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 1000).astype(np.float32)
    soundfile.write("in/a.wav", noise, RATE)
    soundfile.write("in/deep/b.flac", np.stack([noise, noise], axis=1), 22050)
    np.save("in/c.npy", tiny_mel(9))
    return tiny_voice


def vocode(*arguments: str) -> int:
    return main(["vocode", *arguments])


def test_the_output_has_the_samples_of_vocoder_vocode(folder: Path, tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    assert vocode("in/c.npy", "-o", "new/c.wav", "--float", "--seed", "7") == 0
    samples, rate = soundfile.read("new/c.wav", dtype="float32")
    assert rate == RATE
    assert np.array_equal(samples, tiny_vocoder.vocode(tiny_mel(9), seed=7))
    assert vocode("in/c.npy", "-o", "folded", "--fold", "200", "--overlap", "50", "--float") == 0
    folded = soundfile.read("folded/c.wav", dtype="float32")[0]
    assert np.array_equal(folded, tiny_vocoder.vocode(tiny_mel(9), fold=200, overlap=50))


def test_a_folder_of_outputs_mirrors_the_folder_of_inputs(folder: Path, capsys: Capture) -> None:
    assert vocode("in", "-o", "out", "--json") == 0
    assert {path.as_posix() for path in Path("out").rglob("*.*")} == {"out/a.wav", "out/deep/b.wav", "out/c.wav"}
    assert soundfile.info("out/a.wav").subtype == "PCM_16"
    report = json.loads(capsys.readouterr().out)
    assert report["backend"] == "onnxruntime"
    assert report["totals"] | {"elapsed": 0, "rtf": 0} == {
        "done": 3, "skipped": 0, "failed": 0, "elapsed": 0, "rtf": 0,
        "seconds": sum(file["samples"] for file in report["files"]) / RATE,
    }  # fmt: skip
    first = min(report["files"], key=lambda file: str(file["input"]))
    assert (first["input"], first["output"], first["status"]) == ("in/a.wav", "out/a.wav", "done")
    assert first["samples"] == soundfile.info("out/a.wav").frames == (1 + 1000 // HOP) * HOP
    assert first["rtf"] > 0
    assert first["error"] is None
    assert (first["seconds"], first["sample_rate"]) == (first["samples"] / RATE, RATE)


def test_the_json_document_and_the_report_have_the_same_rows(
    folder: Path, tiny_vocoder: Vocoder, tiny_mel: MakeMel, capsys: Capture
) -> None:
    np.save("in/bad.npy", tiny_mel(5).T)
    assert vocode("in", "-o", "out", "--json", "--report", "out/report.jsonl", "--seed", "4") == 1
    document = json.loads(capsys.readouterr().out)
    about = ["backend", "engine", "precision", "model", "sample_rate"]
    assert list(document) == [*about, "files", "totals", "stopped", "left_out"]
    assert document["stopped"] is None
    rows = [json.loads(line) for line in Path("out/report.jsonl").read_text().splitlines()]
    sha256 = file_sha256(tiny_vocoder.loaded.path / MANIFEST)
    common = {"run": rows[0]["run"], "model_sha256": sha256, "backend": "onnxruntime", "engine": None}
    common["precision"] = None
    assert rows == [{**file, **common} for file in document["files"]]
    assert sorted(row["input"] for row in rows) == ["in/a.wav", "in/bad.npy", "in/c.npy", "in/deep/b.flac"]
    assert vocode("in", "-o", "out", "--json", "--report", "out/report.jsonl") == 1
    again = [json.loads(line) for line in Path("out/report.jsonl").read_text().splitlines()][len(rows) :]
    assert sorted((row["input"], row["status"], row["seconds"], row["rtf"]) for row in again) == [
        ("in/a.wav", "skipped", 0, None),
        ("in/bad.npy", "failed", 0, None),
        ("in/c.npy", "skipped", 0, None),
        ("in/deep/b.flac", "skipped", 0, None),
    ]


def test_a_json_document_without_files_is_valid() -> None:
    stream = io.StringIO()
    JsonDocument(stream, {"backend": "torch"}).close(stopped="interrupted")
    assert json.loads(stream.getvalue()) == {"backend": "torch", "files": [], "stopped": "interrupted"}


@pytest.fixture
def vocoders(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Vocoder, SchedulerLimits]]:
    """The vocoders that a test creates, and their limits."""
    vocoders: list[tuple[Vocoder, SchedulerLimits]] = []
    start = Vocoder.__init__

    def record(self: Vocoder, loaded: LoadedModel, batch: int, limits: SchedulerLimits) -> None:
        start(self, loaded, batch, limits)
        vocoders.append((self, limits))

    monkeypatch.setattr(Vocoder, "__init__", record)
    return vocoders


@pytest.mark.parametrize(
    ("files", "options", "batch"), [(1, (), 8), (9, (), 9), (40, (), 32), (9, ("--batch", "2"), 2)]
)
def test_the_default_batch_grows_with_the_number_of_files(
    tmp_path: Path,
    tiny_mel: MakeMel,
    vocoders: list[tuple[Vocoder, SchedulerLimits]],
    files: int,
    options: Sequence[str],
    batch: int,
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(files):
        np.save(tmp_path / "in" / f"{number}.npy", tiny_mel(2))  # every file fails, of too few bins for this model
    inputs = (str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--backend", "onnxruntime", "--threads", "1")
    assert vocode(*inputs, "--lanes", "2", "-q", *options) == 1
    ((vocoder, limits),) = vocoders
    assert (vocoder.batch, limits.lanes) == (batch, 2)


def test_a_few_files_with_clipped_samples_are_named_and_all_counted(
    folder: Path,
    tiny_vocoder: Vocoder,
    tiny_mel: MakeMel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    audio = dataclasses.replace(tiny_vocoder.config.audio, waveform_preemphasis=0.97)  # de-emphasis makes noise loud
    loud = dataclasses.replace(tiny_vocoder.loaded, audio=audio)
    monkeypatch.setattr(vocode_run, "load_model", lambda *_: loud)
    for number in range(6):
        np.save(f"in/deep/{number}.npy", tiny_mel(9, seed=number))
    assert vocode("in/deep", "-o", "out") == 0
    named = [record for record in caplog.records if "samples are clipped" in record.getMessage()]
    assert len(named) == 3
    assert "7 done; 7 with clipped samples (--float keeps them)" in capsys.readouterr().err
    assert vocode("in/deep", "-o", "floating", "--float") == 0
    assert "clipped" not in capsys.readouterr().err


def test_a_report_that_cannot_be_written_ends_the_run(folder: Path, capsys: Capture) -> None:
    resource = pytest.importorskip("resource", reason="needs a limit of file sizes")
    for number in range(40):
        np.save(f"in/{number}.npy", np.load("in/c.npy")[:, :2])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        assert vocode("in", "-o", "out", "--report", "report.jsonl", "--overwrite") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert (
        "wavernn-trt: error: report report.jsonl: File too large; make room for it, or name another; then run" in error
    )
    assert "left for the next run" in error
    assert all(json.loads(line) for line in Path("report.jsonl").read_text().splitlines())
    assert 0 < len(list(Path("out").rglob("*.wav"))) < 43
    assert not list(Path("out").rglob(".*"))
    assert vocode("in", "-o", "out", "--report", "report.jsonl") == 0


def test_existing_outputs_are_skipped_and_replaced_only_with_overwrite(folder: Path, capsys: Capture) -> None:
    Path("out").mkdir()
    Path("out/a.wav").write_text("finished earlier")
    assert vocode("in", "-o", "out") == 0
    assert Path("out/a.wav").read_text() == "finished earlier"
    assert "2 done, 1 skipped" in capsys.readouterr().err
    assert vocode("in", "-o", "out") == 0
    assert "0 done, 3 skipped" in capsys.readouterr().err
    assert vocode("in", "-o", "out", "--overwrite", "-q") == 0
    assert soundfile.info("out/a.wav").samplerate == RATE
    assert capsys.readouterr().err == ""


def test_a_file_that_fails_does_not_stop_the_others_and_the_exit_code_is_1(
    folder: Path, tiny_mel: MakeMel, capsys: Capture
) -> None:
    Path("in/bad.wav").write_bytes(b"not audio")
    np.save("in/nan.npy", np.full((20, 3), np.nan, np.float32))
    np.save("in/transposed.npy", tiny_mel(5).T)
    Path("in/empty.npy").touch()
    assert vocode("in", "-o", "out", "--json") == 1
    captured = capsys.readouterr()
    assert "3 done, 4 failed" in captured.err
    assert "wavernn-trt: failed: in/bad.wav: not a recording" in captured.err
    assert "pass mel.T" in captured.err
    assert "Traceback" not in captured.err
    report = json.loads(captured.out)
    failed = {file["input"]: file["error"] for file in report["files"] if file["status"] == "failed"}
    assert set(failed) == {"in/bad.wav", "in/nan.npy", "in/transposed.npy", "in/empty.npy"}
    assert all(failed.values())
    assert len(list(Path("out").rglob("*.*"))) == 3
    assert vocode("in/c.npy", "missing.wav", "-o", "out2") == 1
    assert Path("out2/c.wav").exists()


def test_an_output_that_cannot_be_written_fails_that_file_only(
    folder: Path, tiny_vocoder: Vocoder, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("out").mkdir()
    Path("out/deep").write_text("a file where a folder is needed")
    assert vocode("in", "-o", "out") == 1
    captured = capsys.readouterr().err
    assert "2 done, 1 failed" in captured
    assert "failed: in/deep/b.flac: out/deep/b.wav: out/deep cannot be a folder: a file is there" in captured
    lines = [{"input": "in/c.npy", "output": name} for name in (f"{'a' * 300}.wav", "b.wav")]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert vocode("list.jsonl", "-o", "out") == 1
    captured = capsys.readouterr().err
    assert "File name too long" in captured
    assert "1 done, 1 failed" in captured
    monkeypatch.setattr(tiny_vocoder.executor, "decode", None)  # is not called
    assert vocode("in/deep", "-o", "out/deep/er") == 1
    Path("folder/c.wav").mkdir(parents=True)
    for overwrite in ([], ["--overwrite"]):
        assert vocode("in/c.npy", "-o", "folder", *overwrite) == 1
        assert "folder/c.wav: found something that is not a file" in capsys.readouterr().err


def test_a_manifest_sets_the_seed_of_every_file(folder: Path, tiny_vocoder: Vocoder, tiny_mel: MakeMel) -> None:
    lines = [{"input": "in/c.npy", "output": f"{seed}.wav", "seed": seed} for seed in (1, 2)]
    lines.append({"input": "in/c.npy", "output": "wrong.wav", "sample_rate": 22050})  # type: ignore[dict-item]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert vocode("list.jsonl", "-o", "out", "--float") == 1
    for seed in (1, 2):
        samples = soundfile.read(f"out/{seed}.wav", dtype="float32")[0]
        assert np.array_equal(samples, tiny_vocoder.vocode(tiny_mel(9), seed=seed))
    assert not Path("out/wrong.wav").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: INPUT, -o/--output"),
        (["nowhere.wav", "-o", "out"], "nowhere.wav: no such file or folder"),
        (["in", "-o", "out.wav"], "expected a folder"),
        (["in", "-o", "in"], "overwritten by its own output"),
        (["in", "-o", "out", "--seed", "-1"], "found '-1', expected an integer from 0 to 2**64 - 1"),
        (["-o", "out", "--fold", "in"], "put --fold after the inputs"),
        (["in", "-o", "out", "--overlap", "5"], "--overlap needs --fold"),
        (["in", "-o", "out", "--fold", "10", "--overlap", "6"], "overlap: found 6 samples, expected at most 5"),
        (["in", "-o", ""], "-o/--output: found '', expected a path; is a shell variable not set?"),
        (["in", "-o", "out", "--report", "out.txt"], "report out.txt: expected a name that ends in .jsonl"),
        (
            ["in", "list.jsonl", "-o", "out", "--report", "./list.jsonl"],
            "report list.jsonl: found one of the inputs, a manifest; name another file",
        ),
        (["in/a.wav", "-o", "out.flac"], "output out.flac: found .flac, expected a name that ends in .wav"),
        (["in", "-o", "out", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    folder: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert vocode(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("wavernn-trt: error: ")
    assert "Traceback" not in captured.err
    assert message in captured.err
    assert not Path("out").exists()


def test_missing_models_and_backends_are_wrong_usage(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "c.npy").touch()
    for extra, message in (
        (["--model", str(tmp_path)], "is not a model directory"),
        (["--backend", "gpu"], "backend: found 'gpu', expected one of auto, native, onnxruntime, torch"),
    ):
        assert vocode(str(tmp_path / "c.npy"), "-o", str(tmp_path / "out"), *extra) == 2
        error = capsys.readouterr().err
        assert error.startswith("wavernn-trt: error: ")
        assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals that can be sent to a thread")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupted_run_leaves_only_complete_files(
    folder: Path,
    tiny_vocoder: Vocoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    decode, stop, stopped, chunks = tiny_vocoder.executor.decode, Pipeline.stop, threading.Event(), 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal chunks
        chunks += 1
        if chunks == 5:  # a.wav has four
            signal.pthread_kill(threading.main_thread().ident, number)
            assert stopped.wait(60)
        return decode(*arguments)

    def stop_and_notify(pipeline: Pipeline) -> None:
        stop(pipeline)
        stopped.set()

    monkeypatch.setattr(tiny_vocoder.executor, "decode", interrupted)
    monkeypatch.setattr(Pipeline, "stop", stop_and_notify)
    handler = signal.getsignal(number)
    assert vocode("in", "-o", "out", "--batch", "1", "--json", "--report", "report.jsonl") == code
    assert signal.getsignal(number) == handler
    captured = capsys.readouterr()
    assert f"wavernn-trt: {word}; finished files are kept, and a rerun continues" in captured.err
    assert "1 done, 2 left for the next run" in captured.err
    assert [path.name for path in Path("out").rglob("*") if path.is_file()] == ["a.wav"]
    assert soundfile.info("out/a.wav").frames == (1 + 1000 // HOP) * HOP
    assert json.loads(captured.out)["stopped"] == word
    assert [json.loads(line)["output"] for line in Path("report.jsonl").read_text().splitlines()] == ["out/a.wav"]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("wavernn-trt reader")]


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interrupt_while_the_model_loads_exits_with_130(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, wrapped: bool
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        if wrapped:  # as in the import of a compiled module
            raise ImportError("initialization failed") from KeyboardInterrupt()
        raise KeyboardInterrupt

    monkeypatch.setattr(vocode_run, "load_model", interrupted)
    assert vocode("in", "-o", "out") == 130
    assert capsys.readouterr().err.endswith("wavernn-trt: interrupted\n")


def test_unexpected_errors_have_a_traceback_only_with_debug(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the unexpected")

    monkeypatch.setattr(vocode_run, "load_model", broken)
    assert vocode("in", "-o", "out") == 2
    assert "wavernn-trt: error: unexpected RuntimeError: the unexpected" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        main(["--debug", "vocode", "in", "-o", "out"])


def test_the_help_loads_no_large_package(begin: Callable[..., subprocess.Popen[bytes]]) -> None:
    code = """
from wavernn_trt.scripts.cli import main
codes = [main(["--help"]), main(["vocode", "--help"]), main(["--version"])]
heavy = {"torch", "onnx", "onnxruntime", "numpy", "soundfile", "soxr", "tqdm"} & set(sys.modules)
sys.exit(f"{codes} {heavy}" if any(codes) or heavy else 0)
"""
    process = begin(code=code)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert b"examples:" in out


def test_an_unknown_command_is_named(capsys: Capture) -> None:
    assert main(["sing"]) == 2
    assert "invalid choice: 'sing'" in capsys.readouterr().err
