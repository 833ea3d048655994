"""``bench --scenario stream`` and ``mixed``: listeners play frames at the times of a clock, and count underruns."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from small_voice import SMALL_VOICE

from wavernn_trt.runtime.executors.onnx_runtime import usable_cores
from wavernn_trt.scripts.bench.listeners import Heard, Listener, Playback, play
from wavernn_trt.scripts.bench.speech import Mixture, Speech
from wavernn_trt.scripts.bench.streams import most_without_underrun

Bench = Callable[..., tuple[int, str, str]]
FRAME = 320
DUE = [1.0, 1.02, 1.04, 1.06]


@pytest.mark.parametrize(
    ("times", "totals", "complete", "expected"),
    [
        ([0.9], [4 * FRAME], True, Playback(4, 0, 0)),
        ([1.0, 1.02, 1.04, 1.06], [FRAME, 2 * FRAME, 3 * FRAME, 4 * FRAME], True, Playback(4, 0, 0)),
        # The second frame is a millisecond late.
        ([1.0, 1.021], [FRAME, 4 * FRAME], True, Playback(4, 1, FRAME)),
        # Half of the second frame is in time.
        ([1.0, 1.021], [FRAME + 160, 4 * FRAME], False, Playback(4, 1, 160)),
        # The waveform ends inside a frame.
        ([0.9], [2 * FRAME + 10], True, Playback(3, 0, 0)),
        # The waveform is longer, but no more samples arrive.
        ([0.9], [2 * FRAME + 10], False, Playback(4, 2, 2 * FRAME - 10)),
        ([], [], False, Playback(4, 4, 4 * FRAME)),
    ],
)
def test_frames_that_miss_their_time_are_underruns(
    times: list[float], totals: list[int], complete: bool, expected: Playback
) -> None:
    assert play(times, totals, DUE, FRAME, complete=complete) == expected


def test_late_samples_and_a_late_reader_are_reported_separately() -> None:
    """The reader reads 30 ms late and finds every sample; by the clock one frame is late."""
    heard = Heard(playback=play([1.0, 1.03], [FRAME, 2 * FRAME], [1.0, 1.02], FRAME, complete=True))
    heard.read = Playback(2, 0, 0)
    heard.lateness = [0.0, 0.03]
    described = heard.describe(16000)
    assert (described["underruns"], described["as_read"]["underruns"]) == (1, 0)
    assert described["reader_late"]["over_5_ms"] == 1
    assert described["silence_seconds"] == 0.02


def test_a_stream_that_stalls_underruns_in_every_later_frame(
    held: Any, held_vocoder: Callable[..., Any], mel_of: Callable[..., Any]
) -> None:
    vocoder = held_vocoder(batch=1)
    vocoder.vocode(mel_of(1))
    held.hold()
    held.allow(1)
    listener = Listener(vocoder, Mixture(Speech(mel_of(8), "noise"), (0,), (8 * 320 // 200,)), 0, 1, 0.0)
    now = time.monotonic()
    listener.listen(now, now + 1.0)
    heard = listener.heard
    assert len(heard.first_frames) == 1
    assert heard.playback.frames == heard.read.frames == len(heard.lateness) > 0
    assert heard.playback.underruns == heard.read.underruns == heard.playback.frames
    assert heard.playback.silence == heard.read.silence == heard.playback.frames * FRAME
    assert heard.samples == FRAME


def test_samples_that_arrive_in_time_do_not_underrun(
    held_vocoder: Callable[..., Any], mel_of: Callable[..., Any]
) -> None:
    vocoder = held_vocoder(batch=1)
    listener = Listener(vocoder, Mixture(Speech(mel_of(1), "noise"), (0,), (1,)), 0, 1, 0.0)
    now = time.monotonic()
    listener.listen(now, now + 0.2)
    heard = listener.heard
    assert heard.failures == []
    assert heard.first_frames
    assert (heard.playback.underruns, heard.read.underruns) == (0, 0)


def test_a_stream_that_raises_is_counted_as_a_failure(
    held: Any, held_vocoder: Callable[..., Any], mel_of: Callable[..., Any]
) -> None:
    vocoder = held_vocoder(batch=1)
    held.failures = {number: RuntimeError("an injected fault") for number in range(2)}
    listener = Listener(vocoder, Mixture(Speech(mel_of(4), "noise"), (0,), (6,)), 0, 1, 0.0)
    now = time.monotonic()
    listener.listen(now, now + 60)
    assert len(listener.heard.failures) == 1
    assert "an injected fault" in listener.heard.failures[0]


@pytest.mark.parametrize(("underruns", "most"), [((0, 0, 0), 4), ((0, 0, 3), 2), ((0, 1, 0), 1), ((2, 0, 0), 0)])
def test_more_listeners_count_only_where_fewer_had_no_underrun(underruns: tuple[int, ...], most: int) -> None:
    levels = [
        {"listeners": listeners, "underruns": count, "failures": []}
        for listeners, count in zip((1, 2, 4), underruns, strict=True)
    ]
    assert most_without_underrun(levels[::-1]) == most


def test_every_number_of_listeners_is_measured_and_reported(bench: Bench, tmp_path: Path) -> None:
    options = ("--listeners", "1,2", "--seconds", "0.3", "--openings", "3", "--buffer", "40", "--threads", "1")
    options = (*options, "--backend", "onnxruntime", "--model", SMALL_VOICE)
    code, out, err = bench("--scenario", "stream", *options, "-q", "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "bench.json").read_text())
    (result,) = report["results"]
    assert result["first_frame_alone"]["count"] == 3
    assert 0 < result["first_frame_alone"]["p50"] <= result["first_frame_alone"]["p99"]
    assert result["buffer"] == 0.04
    assert [level["listeners"] for level in result["levels"]] == [1, 2]
    for level in result["levels"]:
        assert level["failures"] == []
        assert level["first_frame"]["count"] >= 1
        assert 0 <= level["underruns"] <= level["frames"] <= level["listeners"] * 0.3 / 0.02
        assert level["silence_seconds"] <= 0.02 * level["underruns"]
        assert level["cpu_share"] == level["cpu_seconds"] / level["elapsed"] / usable_cores()
        assert level["reader_late"]["count"] >= level["frames"]
    assert result["most_without_underrun"] == most_without_underrun(result["levels"])
    assert "most listeners without underrun" in out
    assert "played 40 ms after the first frame" in out


def test_a_job_is_measured_alone_and_beside_listeners(bench: Bench, tmp_path: Path) -> None:
    options = ("--listeners", "2", "--seconds", "0.3", "--repeats", "2", "--lengths", "0.1:0.3", "--batch", "4")
    options = (*options, "--backend", "onnxruntime", "--model", SMALL_VOICE)
    code, out, err = bench("--scenario", "mixed", *options, "--threads", "1", "-q", "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "bench.json").read_text())
    (result,) = report["results"]
    job = result["job"]
    pairs = list(zip(job["repeats"]["alone"], job["repeats"]["beside"], strict=True))
    assert len(pairs) == 2
    assert job["ratio"] == pytest.approx(median(beside / alone for alone, beside in pairs))
    assert job["alone"] == median(job["repeats"]["alone"]) > 0
    assert job["beside"] == median(job["repeats"]["beside"])
    assert 0 < job["occupancy"] <= 1
    assert job["failures"] == result["failures"] == []
    assert 0 <= result["underruns"] <= result["frames"]
    assert result["listeners_samples_per_second"] == result["samples"] / result["listening_seconds"]
    assert 0.5 < result["listening_seconds"] < 60
    assert np.isfinite(job["ratio"])
    assert f"{job['ratio']:.2f} x" in out
