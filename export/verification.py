"""Compares a complete ``decoder.onnx`` with the trained PyTorch modules.

polygraphy runs both on the same chunk and compares their outputs. The file is run by ONNX Runtime and, where it and a
GPU are available, by TensorRT.
"""

from __future__ import annotations

import importlib.util
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from polygraphy import config as polygraphy_config
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.rewrite.check import TOLERANCE, Agreement, Scenario, middle_of_class, open_session
from wavernn_trt.export.rewrite.unroll import unroll

Feed = dict[str, NDArray[Any]]

_TENSORRT_STEPS = 16
"""Steps of the TensorRT engine, whose build time grows faster than the number of steps."""


def verify_decoder(
    decoder: Path, model: WaveRNN, unrolled: Networks, config: ModelConfig, audio: AudioConfig, steps: int, batch: int
) -> list[Agreement]:
    """Compares the decoder file, and on a GPU a TensorRT engine of its first steps, with the PyTorch modules.

    Args:
        decoder: ``decoder.onnx``, its weights beside it.
        model: the trained modules.
        unrolled: the networks that the file was unrolled from.
        config: the model's configuration, with the groups of ``unrolled``.
        audio: its audio settings.
        steps: steps of the file.
        batch: streams of the file.

    Returns:
        One agreement for each runner; `require` raises for one that does not pass.
    """
    (window,) = [value.shape[1] for value in open_session(str(decoder)).get_inputs() if value.name == "conditioning"]
    scenario = Scenario(config, audio, steps=steps, batch=batch, window=window)
    onnxruntime = OnnxrtRunner(lambda: open_session(str(decoder)), name="ONNX Runtime")
    agreements = [_compare(f"{decoder.name}, ONNX Runtime", model, unrolled, config, scenario, onnxruntime)]
    if _tensorrt_runs():
        steps = min(steps, _TENSORRT_STEPS)
        scenario = Scenario(config, audio, steps=steps, batch=batch, window=window)
        graph = to_model(unroll(unrolled, config, steps=steps, batch=batch, window=window)).SerializeToString()
        what = f"{decoder.name}, TensorRT"
        agreements.append(_compare(what, model, unrolled, config, scenario, _tensorrt_runner(graph)))
    return agreements


def _compare(
    what: str, model: WaveRNN, unrolled: Networks, config: ModelConfig, scenario: Scenario, runner: BaseRunner
) -> Agreement:
    reference = _TorchReference(model, scenario)
    feed: Feed = scenario.chunk_inputs(scenario.conditioning(unrolled), reference.centred_uniforms())
    reference.inputs = feed
    # polygraphy divides by zero where an output is exactly zero; no relative error is used.
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(divide="ignore", invalid="ignore"):
        results = Comparator.run([reference, runner], data_loader=[feed])
        tolerances = {"samples": 0.0 if config.output == "categorical" else TOLERANCE, "": TOLERANCE}
        compare = SimpleCompareFunc(atol=tolerances, rtol=0.0, check_error_stat="max")
        (accuracy,) = Comparator.compare_accuracy(results, compare_func=compare)
    ((compared,),) = accuracy.values()
    expected, found = (dict(iterations[0]) for _, iterations in results)
    error = compared["hidden_out"].max_absdiff
    if config.output == "categorical":
        scale = float(np.abs(expected["hidden_out"]).max())
        equal = int((expected["samples"] == found["samples"]).sum())
        return Agreement(what, scenario.steps, equal, expected["samples"].size, error, scale)
    return Agreement(what, scenario.steps, None, None, max(error, compared["samples"].max_absdiff), 1.0)


class _TorchReference(BaseRunner):  # type: ignore[misc]  # polygraphy has no types
    """Runs the PyTorch modules step by step, with their own conditioning of the scenario's mel."""

    def __init__(self, model: WaveRNN, scenario: Scenario) -> None:
        super().__init__(name="PyTorch")
        self.inputs: Feed = {}
        self._model, self._scenario = model, scenario

    def get_input_metadata_impl(self) -> Any:
        metadata = TensorMetadata()
        for name, value in self.inputs.items():
            metadata.add(name, dtype=value.dtype, shape=value.shape)
        return metadata

    def infer_impl(self, feed_dict: Feed) -> Feed:
        began = time.perf_counter()
        samples, previous, hidden = self._run(lambda step, _: feed_dict["uniforms"][:, step])
        self.inference_time = time.perf_counter() - began
        return OrderedDict(samples=samples, previous_out=previous, hidden_out=hidden)

    def centred_uniforms(self) -> NDArray[np.float32]:
        """Returns the scenario's random numbers, each moved to the middle of its class, [B, T, U].

        Rounding then cannot move a sample to a neighbouring class.
        """
        uniforms = self._scenario.uniforms.copy()

        def centre(step: int, logits: NDArray[np.float32]) -> NDArray[np.float32]:
            if self._model.config.output != "gaussian":
                classes = logits[:, :10] if self._model.config.output == "logistic_mixture" else logits
                uniforms[:, step, 0] = middle_of_class(classes, uniforms[:, step, 0])
            return uniforms[:, step]

        self._run(centre)
        return uniforms

    @torch.inference_mode()
    def _run(
        self, uniforms_of: Callable[[int, NDArray[np.float32]], NDArray[np.float32]]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
        """Runs all steps with random numbers that may depend on the logits: samples [B, T], previous, hidden."""
        model, scenario = self._model, self._scenario
        mel = torch.from_numpy(scenario.mel)
        conditioning = scenario.windows(model.conditioner(mel).numpy())
        hidden = torch.zeros(model.config.layers, scenario.batch, model.config.hidden_size)
        previous = torch.from_numpy(scenario.first_previous())
        samples = []
        for step in range(scenario.steps):
            row = np.concatenate(scenario.expanded(conditioning, model.config.groups, step), axis=1)
            logits, hidden = model.step(previous, hidden, torch.from_numpy(row))
            uniforms = torch.from_numpy(uniforms_of(step, logits.numpy()))
            sample, previous = model.sampler(logits, uniforms)
            samples.append(sample)
        kind = np.int32 if model.config.output == "categorical" else np.float32
        fed = previous.to(torch.int32) if model.config.label_feedback else previous
        return torch.stack(samples, dim=1).numpy().astype(kind), fed.numpy(), hidden.numpy()


def _tensorrt_runs() -> bool:
    return torch.cuda.is_available() and any(map(importlib.util.find_spec, ("tensorrt", "tensorrt_rtx")))


def _tensorrt_runner(graph: bytes) -> BaseRunner:
    """Returns a runner that builds an engine on first use, with TensorRT or else TensorRT-RTX."""
    polygraphy_config.USE_TENSORRT_RTX = importlib.util.find_spec("tensorrt") is None
    from polygraphy.backend.trt import EngineFromNetwork, NetworkFromOnnxBytes, TrtRunner

    return TrtRunner(EngineFromNetwork(NetworkFromOnnxBytes(graph)), name="TensorRT")
