"""Models and PyTorch peers of a run on a GPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from gpu_checks import small_model

from wavernn_trt.scripts.gpu.cases import STANDARD, fatchord_shape, long_chunk, multiply_adds, univoc_shape


@pytest.mark.parametrize("name", STANDARD)
def test_standard_models_have_the_shapes_that_export_makes(name: str) -> None:
    pytest.importorskip("torch", reason="models are PyTorch's")
    pytest.importorskip("onnx_graphsurgeon", reason="the step is exported as an ONNX graph")
    from wavernn_trt.export.rewrite.fold_embedding import fold_embedding
    from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
    from wavernn_trt.export.rewrite.fuse_sequence import fuse_sequence
    from wavernn_trt.export.rewrite.hoist_conditioning import hoist_conditioning
    from wavernn_trt.export.step_graph import export_networks
    from wavernn_trt.scripts.gpu.peers import random_model

    small = small_model(name).shape
    if small.output != "categorical":
        with pytest.raises(ValueError, match="expected univoc's or fatchord's categorical decoder"):
            random_model(small)
        return
    model = random_model(small)
    fused = fuse_gates(hoist_conditioning(fold_embedding(export_networks(model, 80))), model.config.input_sizes)
    config = dataclasses.replace(model.config, groups=fused.groups)
    assert fuse_sequence(fused, config).shape == small
    assert model.config.margin == STANDARD[name].margin
    assert multiply_adds(small) == model.config.multiply_adds


def test_a_long_chunk_reads_rows_within_its_window() -> None:
    for model in STANDARD.values():
        small = fatchord_shape(3, 4, 5) if model.shape.skip else univoc_shape(3, 4, 5)
        case, inputs = long_chunk(dataclasses.replace(model, shape=small), "fp32", 2)
        assert inputs["frame_index"].shape == (2, 1024)
        assert model.margin <= inputs["frame_index"].min()
        assert inputs["frame_index"].max() < case.window - model.margin
        if "interpolation" in inputs:
            assert inputs["interpolation"].shape == (2, 1, 1024, case.window)
            np.testing.assert_allclose(inputs["interpolation"].sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [univoc_shape(16, 24, 64), fatchord_shape(12, 16, 32)])
def test_peers_draw_the_labels_of_the_model_s_own_steps(shape: Any) -> None:
    torch = pytest.importorskip("torch", reason="the peers are PyTorch's")
    from wavernn_trt.scripts.bench.pytorch_peers import Steps
    from wavernn_trt.scripts.gpu.peers import loop_seconds, random_model

    model = random_model(shape)
    steps = Steps(model, 3, 8, "fp32", "cpu")
    previous, hidden = steps._previous.clone(), torch.zeros(shape.layers, 3, shape.hidden_size)
    for part in range(2):  # the second continues the first
        steps.run()
        for step in range(8):
            with torch.no_grad():
                logits, hidden = model.step(previous, hidden, steps._rows[step])
            label = torch.argmax(logits + steps.noise[step], dim=1)
            assert torch.equal(label, steps.labels[step]), (part, step)
            previous = label if shape.label_feedback else 2 * label.float() / (shape.outputs - 1) - 1
    assert len(steps.labels.unique()) > 3
    assert Steps(model, 2, 4, "bf16", "cpu").labels.shape == (4, 2)
    assert loop_seconds(model, 3, 4, "cpu") > 0
