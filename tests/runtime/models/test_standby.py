"""When a candidate is damaged the next one answers, an event says so, and a repaired candidate is taken back."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty_executor as faulty
import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.export.model_directory import (
    MANIFEST,
    PROBE,
    WEIGHTS,
    ModelDirectory,
    ModelDirectoryError,
    write_manifest,
)
from wavernn_trt.runtime.errors import ClosedError, ExecutorError, VocoderError
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.models.breaker import BreakerSettings
from wavernn_trt.runtime.models.standby import (
    Candidate,
    NobodyAnswersError,
    Speaker,
    StandbyEvent,
    StandbyVocoder,
    usual_candidates,
)
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.vocoder import Vocoder

WAIT = 60.0
FAST = SchedulerLimits(hang_seconds=0.3)


@pytest.fixture(scope="module")
def directory(small_directory: Callable[[str], ModelDirectory]) -> ModelDirectory:
    """A random univoc model: 6 mel bins, a hop of 6, 16 classes, 16 kHz."""
    return small_directory("univoc")


@pytest.fixture
def copy(directory: ModelDirectory, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory.path, tmp_path / "voice"))


@pytest.fixture
def mel() -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0.2, 0.9, (6, 300)).astype(np.float32)


@dataclass
class Clock:
    """Seconds, as tests turn it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Listener:
    """Keeps events, and lets a test wait for one."""

    events: list[StandbyEvent] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: StandbyEvent) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait_for(self, kind: str) -> StandbyEvent:
        def found() -> StandbyEvent | None:
            return next((event for event in self.events if event.kind == kind), None)

        with self.changed:
            event = self.changed.wait_for(found, timeout=WAIT)
        assert event is not None, f"no event {kind!r} came"
        return event

    @property
    def kinds(self) -> list[tuple[str, str, str | None]]:
        return [(event.candidate, event.kind, event.answered_by) for event in self.events]


def plain(path: Path, name: str = "standby") -> Candidate:
    return Candidate(name, lambda: Vocoder.load(path, "onnxruntime", threads=1), path)


def faulty_candidate(directory: ModelDirectory, name: str = "first", **fault: Any) -> tuple[Candidate, Any]:
    """A candidate whose executor goes wrong as told, and that executor."""
    executor = faulty.FaultyExecutor(
        load_model(directory.path, LoadOptions("onnxruntime", threads=1)).executor, **fault
    )

    def load() -> Vocoder:
        opened = LoadedModel.of(directory, executor)
        return Vocoder(opened, limits=FAST)

    return Candidate(name, load, directory.path), executor


def alone(path: Path, mel: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    with Vocoder.load(path, "onnxruntime", threads=1) as vocoder:
        return vocoder.vocode(mel, seed=seed)


def test_the_preferred_candidate_answers_and_is_named(copy: Path, mel: NDArray[np.float32]) -> None:
    listener = Listener()
    with StandbyVocoder([plain(copy, "first"), plain(copy)], on_event=listener) as standbys:
        spoken = standbys.vocode(mel, seed=3)
        assert (spoken.source, spoken.degraded, spoken.sample_rate) == ("first", False, 16000)
        np.testing.assert_array_equal(spoken.waveform, alone(copy, mel, 3))
        assert standbys.load() == "first"
        assert standbys.quarantined() == {}
    assert listener.events == []


PROBE_CHUNKS = 2
"""The probe of the small model has 384 steps, and a chunk 320."""


@pytest.mark.parametrize(
    ("layout", "fault", "kind", "message"),
    [
        ("univoc", {"raises_at": PROBE_CHUNKS + 1}, "executor failed", "injected"),
        ("univoc", {"raises_at": PROBE_CHUNKS + 1, "in_collect": True}, "executor failed", "injected"),
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
    with StandbyVocoder([candidate, plain(directory.path)], on_event=listener, clock=Clock()) as standbys:
        spoken = standbys.vocode(mel, seed=5)
        assert (spoken.source, spoken.degraded) == ("standby", False)
        np.testing.assert_array_equal(spoken.waveform, alone(directory.path, mel, 5))
        assert listener.kinds == [("first", kind, "standby")]
        assert message in listener.events[0].message
        assert listener.events[0].time > 1.7e9
        assert "first is out of use" in caplog.text
        assert "standby answered instead" in caplog.text
        chunks = executor.chunks
        assert standbys.vocode(mel).source == "standby"  # at once: the first is not asked again
        assert executor.chunks == chunks
        assert len(listener.events) == 1
        assert standbys.quarantined()["first"].kind == kind
        executor.repair()  # whoever hangs can end


def damaged(path: Path, how: str) -> None:
    weights = bytearray((path / WEIGHTS).read_bytes())
    if how == "missing":
        (path / WEIGHTS).unlink()
    elif how == "truncated":
        (path / WEIGHTS).write_bytes(weights[:-8])
    elif how == "flipped":
        weights[len(weights) // 2] ^= 64
        (path / WEIGHTS).write_bytes(weights)
    elif how == "no manifest":
        (path / MANIFEST).unlink()
    elif how == "NaN that no hash tells":
        numbers = np.frombuffer(bytes(weights), np.float32).copy()
        numbers[: len(numbers) // 2] = np.nan
        (path / WEIGHTS).write_bytes(numbers.tobytes())
        write_manifest(path)


DAMAGE = {
    "missing": ("load failed", "missing"),
    "truncated": ("load failed", "damaged"),
    "flipped": ("load failed", "SHA-256"),
    "no manifest": ("load failed", "not a model directory"),
    "NaN that no hash tells": ("probe failed", ""),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_files_are_answered_without_the_model_and_a_repaired_model_is_taken_back(
    how: str, copy: Path, directory: ModelDirectory, mel: NDArray[np.float32]
) -> None:
    pytest.importorskip("librosa", reason="Griffin-Lim is librosa's")
    kind, message = DAMAGE[how]
    listener, clock = Listener(), Clock()
    candidates = usual_candidates(copy, [("onnxruntime", None)], threads=1)
    damaged(copy, how)
    with StandbyVocoder(candidates, on_event=listener, clock=clock) as standbys:
        spoken = standbys.vocode(mel)
        assert (spoken.source, spoken.degraded) == ("griffin-lim", True)
        assert spoken.waveform.shape == (1800,)
        assert spoken.waveform.std() > 0
        assert listener.kinds == [("onnxruntime", kind, "griffin-lim")]
        assert message in listener.events[0].message
        assert standbys.vocode(mel).source == "griffin-lim"  # nothing has changed: it is not tried again
        assert len(listener.events) == 1
        for file in directory.path.iterdir():
            shutil.copy(file, copy)
        assert standbys.vocode(mel).degraded  # nobody waits while it is tried
        back = listener.wait_for("taken back")
        assert (back.candidate, back.answered_by) == ("onnxruntime", None)
        spoken = standbys.vocode(mel, seed=2)
        assert (spoken.source, spoken.degraded) == ("onnxruntime", False)
        np.testing.assert_array_equal(spoken.waveform, alone(copy, mel, 2))
        assert standbys.quarantined() == {}


def test_a_mistake_of_the_callers_is_no_damage(copy: Path, mel: NDArray[np.float32]) -> None:
    listener = Listener()
    with StandbyVocoder([plain(copy, "first"), plain(copy)], on_event=listener) as standbys:
        for arguments in ({"mel": mel.T}, {"mel": mel, "seed": -1}, {"mel": mel, "sample_rate": 8000}):
            with pytest.raises(VocoderError):
                standbys.vocode(**arguments)
        assert standbys.vocode(mel).source == "first"
    assert listener.events == []


def test_time_that_passes_is_worth_a_try_and_twice_as_much_the_next(
    directory: ModelDirectory, mel: NDArray[np.float32]
) -> None:
    clock, listener = Clock(), Listener()
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


def settled(standbys: StandbyVocoder) -> None:
    """Waits until nothing is being tried again."""
    for thread in threading.enumerate():
        if thread.name.startswith("wavernn-trt retry"):
            thread.join(WAIT)
            assert not thread.is_alive()


def test_what_goes_wrong_in_memory_is_found_on_demand(directory: ModelDirectory, mel: NDArray[np.float32]) -> None:
    listener = Listener()
    candidate, executor = faulty_candidate(directory)
    with StandbyVocoder([candidate, plain(directory.path)], on_event=listener, clock=Clock()) as standbys:
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


def test_where_no_candidate_answers_every_reason_is_given(copy: Path, mel: NDArray[np.float32]) -> None:
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


def test_where_no_other_candidate_answers_a_request_waits_for_what_is_tried_again(
    copy: Path, directory: ModelDirectory, mel: NDArray[np.float32]
) -> None:
    damaged(copy, "flipped")
    with StandbyVocoder([plain(copy, "only")], clock=Clock()) as standbys:
        with pytest.raises(NobodyAnswersError):
            standbys.vocode(mel)
        shutil.copy(directory.file(WEIGHTS), copy)
        assert standbys.vocode(mel).source == "only"


def test_many_requests_load_a_candidate_once(copy: Path, mel: NDArray[np.float32]) -> None:
    loads, together = [], threading.Barrier(8)

    def load() -> Speaker:
        loads.append(1)
        return Vocoder.load(copy, "onnxruntime", threads=1)

    found: list[NDArray[np.float32]] = []
    with StandbyVocoder([Candidate("first", load)]) as standbys:

        def ask() -> None:
            together.wait(WAIT)
            found.append(standbys.vocode(mel, seed=1).waveform)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert len(loads) == 1
    assert len(found) == 8
    for waveform in found:
        np.testing.assert_array_equal(waveform, found[0])


def test_many_requests_meet_one_fault_and_all_are_answered(directory: ModelDirectory, mel: NDArray[np.float32]) -> None:
    listener = Listener()
    candidate, _ = faulty_candidate(directory, raises_at=PROBE_CHUNKS + 3)
    with StandbyVocoder([candidate, plain(directory.path)], on_event=listener, clock=Clock()) as standbys:
        standbys.load()
        answers: dict[int, Any] = {}

        def ask(seed: int) -> None:
            answers[seed] = standbys.vocode(mel, seed=seed)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert len(answers) == 12
        for seed, spoken in answers.items():
            np.testing.assert_array_equal(spoken.waveform, alone(directory.path, mel, seed))
        assert listener.kinds == [("first", "executor failed", "standby")]


def test_no_request_waits_for_a_candidate_that_is_tried_again(copy: Path, mel: NDArray[np.float32]) -> None:
    clock, listener = Clock(), Listener()
    begun, go_on = threading.Event(), threading.Event()
    attempts = 0

    def load() -> Speaker:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ModelDirectoryError("damaged")
        begun.set()
        assert go_on.wait(WAIT)
        return Vocoder.load(copy, "onnxruntime", threads=1)

    with StandbyVocoder([Candidate("first", load), plain(copy)], on_event=listener, clock=clock) as standbys:
        assert standbys.vocode(mel).source == "standby"
        clock.now += 30
        assert standbys.vocode(mel).source == "standby"
        assert begun.wait(WAIT)
        clock.now += 3000
        for _ in range(3):
            assert standbys.vocode(mel).source == "standby"  # while the first is still loading
        go_on.set()
        listener.wait_for("taken back")
        assert standbys.vocode(mel).source == "first"
    assert attempts == 2


@dataclass
class Slow:
    """Speaks when told to, and says whether it is closed."""

    vocoder: Vocoder
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def sample_rate(self) -> int:
        return self.vocoder.sample_rate

    def vocode(self, mel: Any, *, seed: int = 0, **others: Any) -> NDArray[np.float32]:
        if seed == 13:
            raise ExecutorError("unlucky")
        self.entered.set()
        assert self.go_on.wait(WAIT)
        assert not self.closed.is_set()
        return self.vocoder.vocode(mel, seed=seed)

    def close(self) -> None:
        self.closed.set()
        self.vocoder.close()


def test_what_is_out_of_use_is_closed_when_the_last_has_left_it(copy: Path, mel: NDArray[np.float32]) -> None:
    slow = Slow(Vocoder.load(copy, "onnxruntime", threads=1))
    found = []
    with StandbyVocoder([Candidate("slow", lambda: slow), plain(copy)], clock=Clock()) as standbys:
        thread = threading.Thread(target=lambda: found.append(standbys.vocode(mel)))
        thread.start()
        assert slow.entered.wait(WAIT)
        assert standbys.vocode(mel, seed=13).source == "standby"
        assert list(standbys.quarantined()) == ["slow"]
        assert not slow.closed.is_set()
        slow.go_on.set()
        thread.join(WAIT)
        assert found[0].source == "slow"
        assert slow.closed.wait(WAIT)


def test_a_candidate_that_hangs_while_loading_is_passed_over_and_used_once_it_is_loaded(
    copy: Path, mel: NDArray[np.float32]
) -> None:
    """Fault B3: every request waited for it."""
    clock, listener = Clock(), Listener()
    begun, go_on = threading.Event(), threading.Event()
    loads = []

    def load() -> Speaker:
        loads.append(1)
        begun.set()
        assert go_on.wait(WAIT)
        return Vocoder.load(copy, "onnxruntime", threads=1)

    candidates = [Candidate("first", load), plain(copy)]
    with StandbyVocoder(candidates, on_event=listener, clock=clock, load_seconds=WAIT / 2) as standbys:
        waiting: list[Any] = []
        thread = threading.Thread(target=lambda: waiting.append(standbys.vocode(mel)))
        thread.start()
        assert begun.wait(WAIT)
        clock.now += WAIT / 2
        assert standbys.vocode(mel).source == "standby"
        assert listener.kinds == [("first", "load failed", "standby")]
        assert "was not loaded within 30 s" in listener.events[0].message
        assert standbys.vocode(mel).source == "standby"  # at once
        go_on.set()
        thread.join(WAIT)
        assert waiting[0].source == "first"
        clock.now += 30
        assert standbys.vocode(mel).source == "standby"
        listener.wait_for("taken back")
        assert standbys.vocode(mel).source == "first"
    assert loads == [1]


@pytest.mark.parametrize("fails", [False, True])
def test_every_vocoder_that_was_loaded_is_closed_in_the_end(fails: bool, copy: Path, mel: NDArray[np.float32]) -> None:
    """Faults B1 and B2: a vocoder stayed open that was put out of use, or closed, just while it was loaded."""
    opened: list[Slow] = []
    begun, go_on = threading.Event(), threading.Event()

    def load() -> Speaker:
        begun.set()
        assert go_on.wait(WAIT)
        opened.append(Slow(Vocoder.load(copy, "onnxruntime", threads=1)))
        opened[-1].go_on.set()
        return opened[-1]

    standbys = StandbyVocoder([Candidate("first", load), Candidate("second", load)], clock=Clock())
    threads = [threading.Thread(target=lambda: ask(standbys, mel, 13 if fails else 0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert begun.wait(WAIT)
    if not fails:
        standbys.close()
    go_on.set()
    for thread in threads:
        thread.join(WAIT)
    standbys.close()
    assert opened
    for vocoder in opened:
        assert vocoder.closed.wait(WAIT)


def ask(standbys: StandbyVocoder, mel: NDArray[np.float32], seed: int) -> None:
    with contextlib.suppress(ClosedError, NobodyAnswersError):
        standbys.vocode(mel, seed=seed)


def test_the_breakers_settings_say_how_many_failures_put_a_candidate_out_of_use(
    copy: Path, mel: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    listener, clock = Listener(), Clock()
    slow = Slow(Vocoder.load(copy, "onnxruntime", threads=1))
    slow.go_on.set()
    settings = BreakerSettings(window=4, minimum_calls=4, failure_rate=0.5, open_seconds=5, trials=2)
    candidates = [Candidate("slow", lambda: slow), plain(copy)]
    with StandbyVocoder(candidates, on_event=listener, clock=clock, breaker=settings) as standbys:
        assert [standbys.vocode(mel, seed=seed).source for seed in (13, 1, 2)] == ["standby", "slow", "slow"]
        assert listener.events == []
        assert "slow failed: executor failed: unlucky" in caplog.text
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


def test_it_is_ready_when_a_candidate_is_loaded_and_drains_without_dropping_a_request(
    copy: Path, mel: NDArray[np.float32]
) -> None:
    slow = Slow(Vocoder.load(copy, "onnxruntime", threads=1))
    found: list[Any] = []
    with StandbyVocoder([Candidate("slow", lambda: slow), plain(copy)]) as standbys:
        assert (standbys.state, standbys.ready) == ("ready", False)
        standbys.load()
        assert standbys.ready
        thread = threading.Thread(target=lambda: found.append(standbys.vocode(mel)))
        thread.start()
        assert slow.entered.wait(WAIT)
        assert not standbys.drain(0)
        assert (standbys.state, standbys.ready) == ("draining", False)
        with pytest.raises(ClosedError, match="draining"):
            standbys.vocode(mel)
        slow.go_on.set()
        assert standbys.drain(WAIT)
        thread.join(WAIT)
        assert found[0].source == "slow"


def test_a_listener_that_fails_stops_no_request(
    copy: Path, mel: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Speaker:
        raise OSError("no such device")

    def listen(event: StandbyEvent) -> None:
        raise RuntimeError("deaf")

    with StandbyVocoder([Candidate("first", fail), plain(copy)], on_event=listen) as standbys:
        assert standbys.vocode(mel).source == "standby"
    assert "on_event failed" in caplog.text


def test_a_model_without_a_record_is_used_and_that_is_said(
    copy: Path, mel: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    (copy / PROBE).unlink()
    write_manifest(copy)
    with caplog.at_level(logging.WARNING), StandbyVocoder([plain(copy, "first")]) as standbys:
        assert standbys.vocode(mel).source == "first"
    assert "first is used without a probe" in caplog.text


def test_closed_standbys_speak_no_more(copy: Path, mel: NDArray[np.float32]) -> None:
    standbys = StandbyVocoder([plain(copy)])
    standbys.vocode(mel)
    standbys.close()
    standbys.close()
    with pytest.raises(VocoderError, match="closed"):
        standbys.vocode(mel)


@pytest.mark.parametrize("names", [[], ["same", "same"]])
def test_candidates_have_names_of_their_own(copy: Path, names: list[str]) -> None:
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


def test_the_usual_candidates_speak_with_a_voice_that_is_all_gone(copy: Path, mel: NDArray[np.float32]) -> None:
    pytest.importorskip("librosa", reason="Griffin-Lim is librosa's")
    candidates = usual_candidates(copy, threads=1)
    shutil.rmtree(copy)
    with StandbyVocoder(candidates) as standbys:
        spoken = standbys.vocode(mel)
        assert (spoken.source, spoken.degraded) == ("griffin-lim", True)
        assert set(standbys.quarantined()) == {"auto", "onnxruntime"}


def test_a_candidate_whose_load_hung_is_loaded_again(copy: Path, mel: NDArray[np.float32]) -> None:
    released, loads = threading.Event(), []

    def load() -> Vocoder:
        loads.append(copy)
        if len(loads) == 1:
            released.wait(WAIT)
        return Vocoder.load(copy, "onnxruntime", threads=1)

    try:
        with StandbyVocoder([Candidate("first", load, copy), plain(copy)], load_seconds=3.0) as standby:
            assert standby.vocode(mel).source == "standby"
            assert standby.recheck("first") != {"first": ""}  # still waits for the load that hangs, and gives it up
            assert standby.recheck("first") == {"first": ""}
            assert standby.vocode(mel).source == "first"
            released.set()
    finally:
        released.set()
    assert len(loads) == 2
