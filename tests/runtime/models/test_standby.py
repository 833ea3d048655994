"""Failover: a faulty candidate is quarantined and reported, the next one answers, and a repaired one is used again."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manual_clock import Clock
from numpy.typing import NDArray
from standby_candidates import PROBE_CHUNKS, WAIT, Listener, Slow, alone, faulty_candidate, plain, settled

from wavernn_trt.export.model_directory import (
    MANIFEST,
    PROBE,
    WEIGHTS,
    ModelDirectory,
    ModelDirectoryError,
    write_manifest,
)
from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.models.breaker import BreakerSettings
from wavernn_trt.runtime.models.standby import (
    Candidate,
    NobodyAnswersError,
    Speaker,
    StandbyEvent,
    StandbyVocoder,
    usual_candidates,
)
from wavernn_trt.runtime.vocoder import Vocoder


def test_the_preferred_candidate_answers_and_is_named(copy: Path, mel: NDArray[np.float32]) -> None:
    listener = Listener()
    with StandbyVocoder([plain(copy, "first"), plain(copy)], on_event=listener) as standbys:
        answer = standbys.vocode(mel, seed=3)
        assert (answer.source, answer.degraded, answer.sample_rate) == ("first", False, 16000)
        np.testing.assert_array_equal(answer.waveform, alone(copy, mel, 3))
        assert standbys.load() == "first"
        assert standbys.quarantined() == {}
    assert listener.events == []


@pytest.mark.parametrize(
    ("layout", "fault", "kind", "message"),
    [
        ("univoc", {"raises_at": PROBE_CHUNKS + 1}, "executor failed", "injected"),
        ("univoc", {"hangs_at": PROBE_CHUNKS + 1}, "executor failed", "does not answer"),
        ("univoc", {"constant_from": PROBE_CHUNKS}, "damaged output", "are all 0"),
        ("mol", {"nan_from": PROBE_CHUNKS + 1}, "damaged output", "is nan"),
        ("univoc", {"constant_from": 0}, "probe failed", "draws samples that its random numbers do not select"),
        ("univoc", {"raises_at": 0}, "probe failed", "injected"),
        ("mol", {"nan_from": 0}, "probe failed", "drew nan"),
    ],
)
def test_a_fault_of_the_executor_is_answered_by_the_standby(
    layout: str,
    fault: dict[str, Any],
    kind: str,
    message: str,
    small_directory: Callable[[str], ModelDirectory],
    mel: NDArray[np.float32],
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = small_directory(layout)
    listener = Listener()
    candidate, executor = faulty_candidate(directory, **fault)
    with StandbyVocoder([candidate, plain(directory.path)], on_event=listener, clock=Clock(1000.0)) as standbys:
        answer = standbys.vocode(mel, seed=5)
        assert (answer.source, answer.degraded) == ("standby", False)
        np.testing.assert_array_equal(answer.waveform, alone(directory.path, mel, 5))
        assert listener.kinds == [("first", kind, "standby")]
        assert message in listener.events[0].message
        assert listener.events[0].time > 1.7e9
        assert "first is out of use" in caplog.text
        assert "standby answered instead" in caplog.text
        chunks = executor.chunks
        assert standbys.vocode(mel).source == "standby"  # the first is not used again
        assert executor.chunks == chunks
        assert len(listener.events) == 1
        assert standbys.quarantined()["first"].kind == kind
        executor.repair()  # ends hanging calls


def damaged(path: Path, how: str) -> None:
    weights = bytearray((path / WEIGHTS).read_bytes())
    if how == "missing":
        (path / WEIGHTS).unlink()
    elif how == "flipped":
        weights[len(weights) // 2] ^= 64
        (path / WEIGHTS).write_bytes(weights)
    elif how == "no manifest":
        (path / MANIFEST).unlink()
    elif how == "NaN with a valid hash":
        numbers = np.frombuffer(bytes(weights), np.float32).copy()
        numbers[: len(numbers) // 2] = np.nan
        (path / WEIGHTS).write_bytes(numbers.tobytes())
        write_manifest(path)


DAMAGE = {
    "missing": ("load failed", "missing"),
    "flipped": ("load failed", "SHA-256"),
    "no manifest": ("load failed", "not a model directory"),
    "NaN with a valid hash": ("probe failed", ""),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_griffin_lim_answers_for_a_damaged_model_until_that_is_repaired(
    how: str, copy: Path, directory: ModelDirectory, mel: NDArray[np.float32]
) -> None:
    pytest.importorskip("librosa", reason="Griffin-Lim is librosa's")
    kind, message = DAMAGE[how]
    listener, clock = Listener(), Clock(1000.0)
    candidates = usual_candidates(copy, [("onnxruntime", None)], threads=1)
    damaged(copy, how)
    with StandbyVocoder(candidates, on_event=listener, clock=clock) as standbys:
        answer = standbys.vocode(mel)
        assert (answer.source, answer.degraded) == ("griffin-lim", True)
        assert answer.waveform.shape == (1800,)
        assert answer.waveform.std() > 0
        assert listener.kinds == [("onnxruntime", kind, "griffin-lim")]
        assert message in listener.events[0].message
        assert standbys.vocode(mel).source == "griffin-lim"  # it is not tried again before a file changes
        assert len(listener.events) == 1
        for file in directory.path.iterdir():
            shutil.copy(file, copy)
        assert standbys.vocode(mel).degraded  # requests do not wait while it is tried
        back = listener.wait_for("taken back")
        assert (back.candidate, back.answered_by) == ("onnxruntime", None)
        answer = standbys.vocode(mel, seed=2)
        assert (answer.source, answer.degraded) == ("onnxruntime", False)
        np.testing.assert_array_equal(answer.waveform, alone(copy, mel, 2))
        assert standbys.quarantined() == {}


def test_a_mistake_of_the_caller_is_no_failure_of_the_candidate(copy: Path, mel: NDArray[np.float32]) -> None:
    listener = Listener()
    with StandbyVocoder([plain(copy, "first"), plain(copy)], on_event=listener) as standbys:
        for arguments in ({"mel": mel.T}, {"mel": mel, "seed": -1}, {"mel": mel, "sample_rate": 8000}):
            with pytest.raises(VocoderError):
                standbys.vocode(**arguments)
        assert standbys.vocode(mel).source == "first"
    assert listener.events == []


def test_a_candidate_is_tried_again_after_a_time_that_doubles(
    directory: ModelDirectory, mel: NDArray[np.float32]
) -> None:
    clock, listener = Clock(1000.0), Listener()
    tries = threading.Semaphore(0)
    candidate, executor = faulty_candidate(directory, raises_at=0)

    def load() -> Speaker:
        tries.release()
        return candidate.load()

    counted = Candidate("first", load)
    with StandbyVocoder([counted, plain(directory.path)], on_event=listener, clock=clock) as standbys:
        assert standbys.vocode(mel).source == "standby"
        assert tries.acquire(blocking=False)
        for seconds in (30, 60, 120):
            clock.now += seconds - 1
            assert standbys.vocode(mel).source == "standby"
            assert not tries.acquire(blocking=False)
            clock.now += 1
            assert standbys.vocode(mel).source == "standby"
            assert tries.acquire(timeout=WAIT)
            settled(standbys)
        executor.repair()
        clock.now += 240
        assert standbys.vocode(mel).source == "standby"
        listener.wait_for("taken back")
        assert standbys.vocode(mel).source == "first"


def test_a_recheck_finds_a_candidate_that_became_faulty_in_memory(
    directory: ModelDirectory, mel: NDArray[np.float32]
) -> None:
    listener = Listener()
    candidate, executor = faulty_candidate(directory)
    with StandbyVocoder([candidate, plain(directory.path)], on_event=listener, clock=Clock(1000.0)) as standbys:
        assert standbys.recheck() == {}  # nothing is loaded, so nothing can be wrong
        assert standbys.vocode(mel).source == "first"
        assert standbys.recheck() == {"first": ""}
        executor.constant_from = 0
        assert "random numbers do not select" in standbys.recheck()["first"]
        assert listener.kinds == [("first", "probe failed", None)]
        assert standbys.vocode(mel).source == "standby"
        assert "random numbers do not select" in standbys.recheck("first")["first"]
        executor.repair()
        assert standbys.recheck() == {"first": "", "standby": ""}
        assert listener.kinds[-1] == ("first", "taken back", None)
        assert standbys.vocode(mel).source == "first"
        with pytest.raises(VocoderError, match="expected one of first, standby"):
            standbys.recheck("third")


def test_if_no_candidate_answers_the_error_gives_all_reasons(copy: Path, mel: NDArray[np.float32]) -> None:
    damaged(copy, "missing")
    listener = Listener()

    def fail() -> Speaker:
        raise OSError("no such device")

    with StandbyVocoder([plain(copy, "first"), Candidate("second", fail)], on_event=listener) as standbys:
        with pytest.raises(NobodyAnswersError, match=r"first: .*is missing.*; second: no such device"):
            standbys.vocode(mel)
        assert listener.kinds == [("first", "load failed", None), ("second", "load failed", None)]
        with pytest.raises(ExecutorError):
            standbys.load()
        assert len(listener.events) == 2


def test_if_no_other_candidate_answers_a_request_waits_for_the_one_that_is_tried_again(
    copy: Path, directory: ModelDirectory, mel: NDArray[np.float32]
) -> None:
    damaged(copy, "flipped")
    with StandbyVocoder([plain(copy, "only")], clock=Clock(1000.0)) as standbys:
        with pytest.raises(NobodyAnswersError):
            standbys.vocode(mel)
        shutil.copy(directory.file(WEIGHTS), copy)
        assert standbys.vocode(mel).source == "only"


def test_the_breaker_settings_decide_how_many_failures_quarantine_a_candidate(
    copy: Path, mel: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    listener, clock = Listener(), Clock(1000.0)
    slow = Slow(Vocoder.load(copy, "onnxruntime", threads=1))
    slow.go_on.set()
    settings = BreakerSettings(window=4, minimum_calls=4, failure_rate=0.5, open_seconds=5, trials=2)
    candidates = [Candidate("slow", lambda: slow), plain(copy)]
    with StandbyVocoder(candidates, on_event=listener, clock=clock, breaker=settings) as standbys:
        assert [standbys.vocode(mel, seed=seed).source for seed in (13, 1, 2)] == ["standby", "slow", "slow"]
        assert listener.events == []
        assert "slow failed: executor failed: seed 13" in caplog.text
        assert standbys.vocode(mel, seed=13).source == "standby"
        assert listener.kinds == [("slow", "executor failed", "standby")]
        assert standbys.vocode(mel, seed=1).source == "standby"
        slow = Slow(Vocoder.load(copy, "onnxruntime", threads=1))
        slow.go_on.set()
        clock.now += 5
        for _ in range(2):  # each begins one of two trials in the background
            assert standbys.vocode(mel, seed=1).source == "standby"
            settled(standbys)
        assert listener.kinds[-1] == ("slow", "taken back", None)
        assert standbys.vocode(mel, seed=1).source == "slow"


def test_a_listener_that_fails_stops_no_request(
    copy: Path, mel: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Speaker:
        raise OSError("no such device")

    def listen(event: StandbyEvent) -> None:
        raise RuntimeError("listener")

    with StandbyVocoder([Candidate("first", fail), plain(copy)], on_event=listen) as standbys:
        assert standbys.vocode(mel).source == "standby"
    assert "on_event failed" in caplog.text


def test_a_model_without_a_probe_record_is_used_with_a_warning(
    copy: Path, mel: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    (copy / PROBE).unlink()
    write_manifest(copy)
    with caplog.at_level(logging.WARNING), StandbyVocoder([plain(copy, "first")]) as standbys:
        assert standbys.vocode(mel).source == "first"
    assert "first is used without a probe" in caplog.text


def test_a_closed_standby_refuses_requests(copy: Path, mel: NDArray[np.float32]) -> None:
    standbys = StandbyVocoder([plain(copy)])
    standbys.vocode(mel)
    standbys.close()
    standbys.close()
    with pytest.raises(VocoderError, match="closed"):
        standbys.vocode(mel)


@pytest.mark.parametrize("names", [[], ["same", "same"]])
def test_missing_candidates_and_equal_names_are_refused(copy: Path, names: list[str]) -> None:
    with pytest.raises(VocoderError, match="expected at least one, and different names"):
        StandbyVocoder([plain(copy, name) for name in names])


def test_the_usual_candidates_are_backends_and_then_griffin_lim(copy: Path) -> None:
    backends = [("tensorrt_rtx", "fp16"), ("tensorrt_rtx", "fp32"), ("onnxruntime", None)]
    candidates = usual_candidates(copy, backends)
    names = [candidate.name for candidate in candidates]
    assert names == ["tensorrt_rtx fp16", "tensorrt_rtx fp32", "onnxruntime", "griffin-lim"]
    assert [candidate.degraded for candidate in candidates] == [False, False, False, True]
    assert [candidate.folder for candidate in candidates] == [copy, copy, copy, None]
    assert len(usual_candidates(copy, griffin_lim=False)) == 2
    (copy / "config.json").write_text("{}")
    with pytest.raises(ModelDirectoryError, match=r"config\.json is damaged"):
        usual_candidates(copy)


def test_the_usual_candidates_answer_without_the_model_directory(copy: Path, mel: NDArray[np.float32]) -> None:
    pytest.importorskip("librosa", reason="Griffin-Lim is librosa's")
    candidates = usual_candidates(copy, threads=1)
    shutil.rmtree(copy)
    with StandbyVocoder(candidates) as standbys:
        answer = standbys.vocode(mel)
        assert (answer.source, answer.degraded) == ("griffin-lim", True)
        assert set(standbys.quarantined()) == {"auto", "onnxruntime"}
