"""``bench --scenario batch`` on a few short utterances: the job, its report, the comparison with each decoded alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_voice import SAMPLE_MEL, SMALL_VOICE

from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.executors.protocol import Chunk, FloatArray, State
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench import load as bench_load
from wavernn_trt.scripts.bench.backends import another_vocoder
from wavernn_trt.scripts.bench.batch import Job, measure_batch, run_job
from wavernn_trt.scripts.bench.speech import Mixture, ScenarioOptions, Speech, find_speech, mix
from wavernn_trt.scripts.bench.timing import MeteredExecutor

Bench = Callable[..., tuple[int, str, str]]
SMALL = (
    *("--scenario", "batch", "--backend", "onnxruntime", "--utterances", "12", "--lengths", "0.02:0.12"),
    *("--batch", "3", "--threads", "1", "-q", "--model", SMALL_VOICE),
)
HOP, STEPS = 200, 320
"""Samples of a frame, and of a chunk."""


class FaultyExecutor(OnnxRuntimeExecutor):
    """Counts the rows that it computes; can change a bit in batches, and fail for mels of one length."""

    def __init__(self, directory: ModelDirectory) -> None:
        super().__init__(directory, threads=1)
        self.rows = 0
        self.wrong_in_batches = False
        self.failing_frames: int | None = None

    def condition(self, mel: FloatArray) -> FloatArray:
        if mel.shape[1] == self.failing_frames:
            raise RuntimeError("an injected fault")
        return super().condition(mel)

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        samples, state = super().decode(chunk, state)
        self.rows += len(samples)
        if self.wrong_in_batches and len(samples) > 1:
            samples[0, 0] ^= 1
        return samples, state


@pytest.fixture
def executor(directory: ModelDirectory) -> FaultyExecutor:
    return FaultyExecutor(directory)


@pytest.fixture
def vocoder(directory: ModelDirectory, executor: FaultyExecutor) -> Iterator[Vocoder]:
    with Vocoder(LoadedModel.of(directory, executor)) as vocoder:
        yield vocoder


def measured(vocoder: Vocoder, **options: Any) -> dict[str, Any]:
    options = {"utterances": 9, "lengths": (0.02, 0.1), "batch": 3, **options}
    return measure_batch(vocoder, ScenarioOptions(**options), lambda line: None)


def test_the_figures_of_a_report_agree(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench(*SMALL, "--price", "3", "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["scenario"] == "batch"
    assert report["missing"] == {}
    assert report["others_share"] is None or 0 <= report["others_share"] <= 1
    (result,) = report["results"]
    assert (result["subject"], result["slots"], result["lanes"], result["chunk"]) == ("onnxruntime", 3, 1, STEPS)
    job, memory = result["scheduler"], result["memory"]
    assert (job["utterances"], job["done"], job["failed"], job["failures"]) == (12, 12, 0, [])
    assert job["samples"] == round(result["speech_seconds"] * 16000)
    assert job["samples_per_second"] == job["samples"] / job["elapsed"]
    assert job["host_share"] == 1 - job["waiting_executor"] / job["waiting_elapsed"]
    assert 0 < job["waiting_elapsed"] <= job["elapsed"]
    assert 0 < job["occupancy"] <= 1
    assert 0 < job["first_samples"] <= job["elapsed"]
    for name in ("latency", "first_latency"):
        times = job[name]
        assert times["count"] == 12
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"] <= job["elapsed"]
    assert result["alone"] == {"compared": 12, "beginnings": 0, "different": []}
    limit = result["limit"]
    assert limit["flops"] == median(limit["repeats"]) > 0
    assert result["share_of_limit"] == 2 * report["model"]["multiply_adds"] * job["samples_per_second"] / limit["flops"]
    assert result["cost"] == pytest.approx(3 * 1000 * 16000 / job["samples_per_second"])
    assert max(job["repeats"]) > 0 <= min(job["repeats"])  # in a job as short as this, no chunk may end in a part
    assert memory["peak"] >= memory["end"] > 0
    assert memory["growth"] == memory["end"] - memory["quarter"]
    assert "12 of 12" in out
    assert "USD by onnxruntime" in out


def test_the_former_option_for_padded_batches_has_no_effect_and_warns(bench: Bench) -> None:
    code, _, err = bench(*SMALL, "--verify", "0", "--padded-groups", "2")
    assert (code, err.count("\n")) == (0, 1)
    assert "warning: --padded-groups has no effect" in err


def test_a_job_computes_each_needed_row_once_and_counts_none_of_the_warm_up(
    vocoder: Vocoder, executor: FaultyExecutor
) -> None:
    frames = (2, 9, 4, 1, 1, 3, 5)
    mixture = Mixture(find_speech(vocoder, ()), tuple(range(40, 47)), frames)
    metered = MeteredExecutor(executor)
    with another_vocoder(vocoder, 3, executor=metered) as warm:
        warm.vocode(mixture.speech.mel[:, :4])
    warm_up = executor.rows
    assert warm_up > 0
    with another_vocoder(vocoder, 3, executor=metered) as used:
        taken: list[int] = []
        job = run_job(used, metered, mixture, lambda number, _: taken.append(number), lambda done: None)
    assert sorted(taken) == list(range(7))
    assert job.computed.rows == executor.rows - warm_up == sum(math.ceil(count * HOP / STEPS) for count in frames)
    assert job.samples == sum(frames) * HOP


def test_verifying_all_compares_every_beginning(vocoder: Vocoder, executor: FaultyExecutor) -> None:
    result = measured(vocoder, utterances=20, verify="all")
    assert result["alone"] == {"compared": 16, "beginnings": 20, "different": []}
    assert result["sound"]
    executor.wrong_in_batches = True
    result = measured(vocoder, verify="all")
    assert result["alone"]["different"]
    assert not result["sound"]


def test_an_utterance_that_differs_when_decoded_alone_is_reported_with_exit_code_1(
    bench: Bench, vocoder: Vocoder, executor: FaultyExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.wrong_in_batches = True
    monkeypatch.setattr(
        bench_load, "load_backend", lambda path, backend, threads, batch, precision: another_vocoder(vocoder, batch)
    )
    code, out, err = bench(*SMALL, "--verify", "12")
    assert code == 1
    assert "DIFFERENT" in out
    assert "an utterance failed, or differs when decoded alone" in err


def test_utterances_that_fail_are_counted_and_the_others_decoded(vocoder: Vocoder, executor: FaultyExecutor) -> None:
    mixture = mix(vocoder, find_speech(vocoder, ()), 9, (0.02, 0.1))
    executor.failing_frames = max(mixture.frames)
    failing = mixture.frames.count(executor.failing_frames)
    result = measured(vocoder, verify=0)
    job = result["scheduler"]
    assert (job["done"], job["failed"]) == (9 - failing, failing)
    assert "an injected fault" in job["failures"][0]
    assert not result["sound"]


def test_host_overhead_is_what_lanes_spend_outside_the_executor() -> None:
    job = Job(10, 4, waiting_elapsed=10.0, waiting_executor=18.0)
    assert job.host_share(2) == pytest.approx(0.1)
    assert Job(3, 4).host_share(2) == 0.0


def test_a_long_job_has_a_speed_for_each_of_its_parts() -> None:
    job = Job(100, 4, marks=[(0.5 + ended, 40 * ended) for ended in range(33)])
    assert job.parts(320) == [320 * 40] * 8
    job.marks = [(0.5 + ended, 40 * ended) for ended in range(8)]
    assert job.parts(320) == [320 * 40] * 3
    job.marks = job.marks[:2]
    assert job.parts(320) == []


def test_the_time_of_a_chunk_is_the_median_of_the_fullest_chunks(executor: FaultyExecutor) -> None:
    metered = MeteredExecutor(executor)
    assert metered.chunk_seconds() is None
    for rows, seconds in ((1, 9.0), (4, 2.0), (4, 4.0), (3, 9.0), (4, 3.0)):
        metered.count(rows, seconds)
    assert metered.chunk_seconds() == 3.0
    meter = metered.read()
    assert (meter.chunks, meter.rows, meter.seconds) == (5, 16, 27.0)


def test_lengths_are_spread_evenly_in_their_logarithm(tiny_vocoder: Vocoder) -> None:
    speech = Speech(np.zeros((20, 1000), np.float32), "silence")
    mixture = mix(tiny_vocoder, speech, 4000, (0.2, 20))
    seconds = np.array(mixture.frames) * 40 / 16000
    assert 0.2 <= seconds.min() < 0.21
    assert 19 < seconds.max() <= 20
    assert np.median(seconds) == pytest.approx(2.0, rel=0.1)
    assert mixture == mix(tiny_vocoder, speech, 4000, (0.2, 20))
    assert len({request.seed for request in mixture}) == 4000


def test_utterances_are_cut_from_all_given_mels_joined(tiny_vocoder: Vocoder, tmp_path: Path) -> None:
    mels = [np.full((20, frames), -level / 10, np.float32) for level, frames in ((1, 4), (2, 3))]
    for name, mel in zip("ab", mels, strict=True):
        np.save(tmp_path / f"{name}.npy", mel)
    (tmp_path / "list.jsonl").write_text('{"input": "b.npy"}\n')
    joined = find_speech(tiny_vocoder, [tmp_path])
    assert np.array_equal(joined.mel, np.concatenate(mels, axis=1))
    assert np.array_equal(joined.cut(5, 4)[0], np.float32([-0.2, -0.2, -0.1, -0.1]))
    assert np.array_equal(find_speech(tiny_vocoder, [tmp_path / "list.jsonl"]).mel, mels[1])
    np.save(tmp_path / "c.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(VocoderError, match=r"--mels: .*c\.npy: .*expected"):
        find_speech(tiny_vocoder, [tmp_path / "c.npy"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(VocoderError, match=r"empty: found no recordings \(\.wav"):
        find_speech(tiny_vocoder, [tmp_path / "empty"])


def test_without_mels_the_shipped_voice_decodes_its_sample_and_others_noise(tiny_vocoder: Vocoder) -> None:
    with Vocoder.load(threads=1) as shipped:
        assert np.array_equal(find_speech(shipped, ()).mel, np.load(SAMPLE_MEL))
    assert find_speech(tiny_vocoder, ()).source == "noise over the model's range"
