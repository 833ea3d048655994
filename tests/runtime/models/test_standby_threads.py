"""Failover with requests of several threads: loads, hangs, and vocoders that are closed after their last request."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manual_clock import Clock
from numpy.typing import NDArray
from standby_candidates import PROBE_CHUNKS, WAIT, Listener, Slow, alone, faulty_candidate, plain

from wavernn_trt.export.model_directory import ModelDirectory, ModelDirectoryError
from wavernn_trt.runtime.errors import ClosedError
from wavernn_trt.runtime.models.standby import Candidate, NobodyAnswersError, Speaker, StandbyVocoder
from wavernn_trt.runtime.vocoder import Vocoder


def test_many_requests_load_a_candidate_once(copy: Path, mel: NDArray[np.float32]) -> None:
    loads, together = [], threading.Barrier(8)

    def load() -> Speaker:
        loads.append(1)
        return Vocoder.load(copy, "onnxruntime", threads=1)

    found: list[NDArray[np.float32]] = []
    with StandbyVocoder([Candidate("first", load)]) as standbys:

        def request() -> None:
            together.wait(WAIT)
            found.append(standbys.vocode(mel, seed=1).waveform)

        threads = [threading.Thread(target=request) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert len(loads) == 1
    assert len(found) == 8
    for waveform in found:
        np.testing.assert_array_equal(waveform, found[0])


def test_a_fault_during_many_requests_is_reported_once_and_all_are_answered(
    directory: ModelDirectory, mel: NDArray[np.float32]
) -> None:
    listener = Listener()
    candidate, _ = faulty_candidate(directory, raises_at=PROBE_CHUNKS + 3)
    with StandbyVocoder([candidate, plain(directory.path)], on_event=listener, clock=Clock(1000.0)) as standbys:
        standbys.load()
        answers: dict[int, Any] = {}

        def request(seed: int) -> None:
            answers[seed] = standbys.vocode(mel, seed=seed)

        threads = [threading.Thread(target=request, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert len(answers) == 12
        for seed, answer in answers.items():
            np.testing.assert_array_equal(answer.waveform, alone(directory.path, mel, seed))
        assert listener.kinds == [("first", "executor failed", "standby")]


def test_no_request_waits_for_a_candidate_that_is_tried_again(copy: Path, mel: NDArray[np.float32]) -> None:
    clock, listener = Clock(1000.0), Listener()
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


def test_a_quarantined_vocoder_is_closed_after_its_last_request(copy: Path, mel: NDArray[np.float32]) -> None:
    slow = Slow(Vocoder.load(copy, "onnxruntime", threads=1))
    found = []
    with StandbyVocoder([Candidate("slow", lambda: slow), plain(copy)], clock=Clock(1000.0)) as standbys:
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


def test_a_candidate_that_hangs_while_loading_is_skipped_until_it_is_loaded(
    copy: Path, mel: NDArray[np.float32]
) -> None:
    clock, listener = Clock(1000.0), Listener()
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
def test_every_loaded_vocoder_is_closed_in_the_end(fails: bool, copy: Path, mel: NDArray[np.float32]) -> None:
    """Also one that is quarantined, or whose standby is closed, while it is loaded."""
    opened: list[Slow] = []
    begun, go_on = threading.Event(), threading.Event()

    def load() -> Speaker:
        begun.set()
        assert go_on.wait(WAIT)
        opened.append(Slow(Vocoder.load(copy, "onnxruntime", threads=1)))
        opened[-1].go_on.set()
        return opened[-1]

    standbys = StandbyVocoder([Candidate("first", load), Candidate("second", load)], clock=Clock(1000.0))
    threads = [threading.Thread(target=lambda: request(standbys, mel, 13 if fails else 0)) for _ in range(8)]
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


def request(standbys: StandbyVocoder, mel: NDArray[np.float32], seed: int) -> None:
    with contextlib.suppress(ClosedError, NobodyAnswersError):
        standbys.vocode(mel, seed=seed)


def test_a_standby_is_ready_once_a_candidate_is_loaded_and_drains_without_dropping_a_request(
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


def test_a_candidate_whose_load_hung_is_loaded_again(copy: Path, mel: NDArray[np.float32]) -> None:
    released, loads = threading.Event(), []

    def load() -> Vocoder:
        loads.append(copy)
        if len(loads) == 1:
            released.wait(WAIT)
        return Vocoder.load(copy, "onnxruntime", threads=1)

    try:
        with StandbyVocoder([Candidate("first", load, copy), plain(copy)], load_seconds=1.5) as standby:
            assert standby.vocode(mel).source == "standby"
            assert standby.recheck("first") != {"first": ""}  # waits for the hanging load again, and abandons it
            assert standby.recheck("first") == {"first": ""}
            assert standby.vocode(mel).source == "first"
            released.set()
    finally:
        released.set()
    assert len(loads) == 2
