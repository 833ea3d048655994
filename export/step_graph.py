"""ONNX export from torch: the conditioner, and one step of the decoder with its sampler."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import torch
from torch import Tensor, nn

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.networks import OPSET, Networks, replace_tensor

_EXAMPLE_FRAMES = 3
"""Few, because the exporter runs a recurrent conditioner frame by frame many times; twelve take twice as long."""


def export_networks(model: WaveRNN, n_mels: int) -> Networks:
    """Exports a model's two networks; batch and frames stay dynamic."""
    config = model.config
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames", min=2)
    conditioner = export_module(
        model.conditioner,
        (torch.zeros(2, n_mels, _EXAMPLE_FRAMES),),
        ["mel"],
        ["conditioning"],
        ({0: batch, 2: frames},),
    )
    step = export_module(
        _StepAndSampler(model),
        _example_inputs(config, 2),
        ["previous", "hidden", "conditioning", "uniforms"],
        ["sample", "next_previous", "next_hidden", "logits"],
        ({0: batch}, {1: batch}, {0: batch}, {0: batch}),
    )
    _split_hidden(step, config.layers)
    return Networks(conditioner, step, config.groups, ())


class _StepAndSampler(nn.Module):
    def __init__(self, model: WaveRNN) -> None:
        super().__init__()
        self.step, self.sampler = model.step, model.sampler

    def forward(
        self, previous: Tensor, hidden: Tensor, conditioning: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, next_hidden = self.step(previous, hidden, conditioning)
        sample, next_previous = self.sampler(logits, uniforms)
        return sample, next_previous, next_hidden, logits


def _example_inputs(config: ModelConfig, batch: int) -> tuple[Tensor, ...]:
    return (
        torch.zeros(batch, dtype=torch.int32 if config.label_feedback else torch.float32),
        torch.zeros(config.layers, batch, config.hidden_size),
        torch.zeros(batch, config.columns),
        torch.full((batch, config.uniforms), 0.5),
    )


def export_module(
    module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str], dynamic: Any
) -> gs.Graph:
    """Exports a module; ``dynamic`` is the ``dynamic_shapes`` of ``torch.onnx.export``."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module,
            inputs,
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        model = onnx.load(path)
    graph = gs.import_onnx(model)
    graph.doc_string = ""
    return graph.fold_constants().cleanup().toposort()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The exporter prints its progress to stdout and warns about packages that are not needed.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _split_hidden(step: gs.Graph, layers: int) -> None:
    """Replaces ``hidden`` [L, B, H] by one tensor per layer, which unrolling passes directly to the next step."""
    tensors = step.tensors()
    hidden, following = tensors["hidden"], tensors["next_hidden"]
    batch, size = hidden.shape[1], hidden.shape[2]
    inputs = [gs.Variable(f"hidden_{layer}", hidden.dtype, (batch, size)) for layer in range(layers)]
    for node in list(hidden.outputs):
        if node.op != "Gather" or node.attrs.get("axis", 0) != 0:
            raise ValueError(f"node {node.name} ({node.op}) reads the hidden state; expected a Gather of one layer")
        layer = inputs[int(node.inputs[1].values)]
        replace_tensor(step, node.outputs[0], layer)
        node.inputs.clear()
    producer = following.inputs[0]
    stacked = list(producer.inputs) if producer.op == "Concat" else [following]
    states = [tensor.inputs[0].inputs[0] for tensor in stacked]  # each behind an Unsqueeze
    for layer, state in enumerate(states):
        state.name = f"next_hidden_{layer}"
    position = step.inputs.index(hidden)
    step.inputs[position : position + 1] = inputs
    position = step.outputs.index(following)
    step.outputs[position : position + 1] = states
    step.cleanup().toposort()
