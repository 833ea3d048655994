"""Lanes of every executor: pauses do not change a stream's bits, and each lane may run in its own thread."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import simulated_device as simulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_streams import equal, random_streams

from wavernn_trt.engines.gpu import Gpu
from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.decoding.chunk_loop import LaneLoop, Stream, decode_streams
from wavernn_trt.runtime.executors import onnx_runtime
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.executors.tensorrt_executor import Engine, TensorRTExecutor
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.vocoder import Vocoder

SLOTS = 3
STEPS = 24
GPU = Gpu("Simulated", 89)
few = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@dataclass
class Kind:
    """An executor, and the windows of its model."""

    executor: Executor
    windows: ConditioningWindows

    def streams(self, lengths: list[int]) -> list[Stream]:
        return random_streams(self.windows, lengths)

    def alone(self, lengths: list[int]) -> list[NDArray[Any]]:
        """The samples of each stream without neighbours and pauses."""
        return [
            np.concatenate([one.samples for one in decode_streams(self.executor, self.windows, [stream], SLOTS)])
            for stream in self.streams(lengths)
        ]

    def paused(self, lengths: list[int], chance: random.Random) -> list[NDArray[Any]]:
        """The samples of each stream; entries, streams of a chunk and collections are random."""
        waiting = self.streams(lengths)
        parts: list[list[NDArray[Any]]] = [[] for _ in lengths]
        with self.executor.lane(SLOTS) as lane:
            loop: LaneLoop[Stream] = LaneLoop(lane, self.windows)
            while waiting or loop.streams or loop.in_flight:
                while waiting and loop.free and chance.random() < 0.7:
                    loop.enter(waiting.pop(0))
                chosen = [stream for stream in loop.streams if chance.random() < 0.5]
                chance.shuffle(chosen)
                if chosen and not loop.full:
                    loop.submit(chosen)
                elif loop.in_flight:
                    for piece in loop.collect():
                        parts[piece.stream.number].append(piece.samples)
        return [np.concatenate(one) for one in parts]


def on_device(directory: ModelDirectory, *, capturable: bool = True) -> Kind:
    manifests = simulated.records(directory, steps=STEPS, batch=(SLOTS,) * 3)
    plans = [simulated.OnnxPlan(directory, one, capturable=capturable) for one in manifests.values()]
    engine = Engine(simulated.SimulatedDevice(0), *plans)
    executor = TensorRTExecutor(directory, "tensorrt_rtx", LoadOptions(), GPU, engine)
    return Kind(executor, windows_of(directory))


def windows_of(directory: ModelDirectory) -> ConditioningWindows:
    return ConditioningWindows(directory.model, directory.audio, STEPS, directory.upsampling)


@pytest.fixture(
    scope="module", params=["onnxruntime", "torch, three slots", "device, captured", "device, not captured"]
)
def kind(request: pytest.FixtureRequest, voice: ModelDirectory, tiny_vocoder: Vocoder) -> Kind:
    if request.param == "onnxruntime":
        return Kind(OnnxRuntimeExecutor(voice, threads=1), windows_of(voice))
    if request.param == "torch, three slots":
        model = request.getfixturevalue("tiny_model")
        from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

        windows = ConditioningWindows(model.config, tiny_vocoder.config.audio, STEPS)
        return Kind(TorchExecutor(model, 3), windows)
    return on_device(voice, capturable=request.param == "device, captured")


@few
@given(chance=st.randoms(use_true_random=False), lengths=st.lists(st.integers(1, 4 * STEPS), min_size=1, max_size=5))
def test_a_stream_paused_at_random_chunks_keeps_its_bits(kind: Kind, chance: random.Random, lengths: list[int]) -> None:
    assert equal(kind.paused(lengths, chance), kind.alone(lengths))


def test_lanes_and_conditioning_may_run_in_threads_of_their_own(kind: Kind) -> None:
    lengths = [4 * STEPS, 2 * STEPS + 3, STEPS]
    expected = kind.alone(lengths)
    n_mels = 20 if kind.executor.name == "torch" else 80
    mels = [np.random.default_rng(n).uniform(-1, 0, (n_mels, 3 + n)).astype(np.float32) for n in range(6)]
    rows = [kind.executor.condition(mel) for mel in mels]
    with ThreadPoolExecutor(5) as threads:
        lanes = [threads.submit(kind.paused, lengths, random.Random(number)) for number in range(3)]
        conditioned = [threads.submit(kind.executor.condition, mel) for mel in mels * 3]
        assert [equal(lane.result(60), expected) for lane in lanes] == [True] * 3
        assert equal([one.result(60) for one in conditioned], rows * 3)


@pytest.mark.parametrize(
    ("cores", "default", "threads", "lanes"),
    [(6, 1, None, 6), (1, 1, None, 1), (64, 1, None, 8), (6, 1, 2, 1), (7, 3, None, 2)],
)
def test_onnx_runtime_s_lanes_share_the_cores_unless_threads_are_given(
    voice: ModelDirectory, cores: int, default: int, threads: int | None, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_runtime, "usable_cores", lambda: cores)
    monkeypatch.setattr(onnx_runtime, "default_threads", lambda *_: default)
    assert OnnxRuntimeExecutor(voice, threads).lanes == lanes


def test_engines_and_the_reference_open_one_lane(voice: ModelDirectory, tiny_model: Any) -> None:
    from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

    assert on_device(voice).executor.lanes == TorchExecutor(tiny_model).lanes == 1
