"""Rewriting passes: which operators each leaves, and that it computes what the graph before it computes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the step is exported from PyTorch")
onnx = pytest.importorskip("onnx", reason="graphs are ONNX graphs")

from decoder_graphs import assert_close, decoder_inputs, run_graph

from wavernn_trt.engines.compatibility import compatibility_report
from wavernn_trt.export.checkpoints.checkpoint import Checkpoint
from wavernn_trt.export.exporter import rewrite
from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.model_directory import window_rows
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.rewrite.check import RewriteError, check_blocks, check_decoder, check_pass, require
from wavernn_trt.export.rewrite.conditioner_blocks import conditioner_in_blocks
from wavernn_trt.export.rewrite.fold_embedding import fold_embedding
from wavernn_trt.export.rewrite.fuse_gates import PatternError, fuse_gates
from wavernn_trt.export.rewrite.hoist_conditioning import hoist_conditioning
from wavernn_trt.export.rewrite.loop import free_running_loop, teacher_forced_loop
from wavernn_trt.export.rewrite.unroll import unroll
from wavernn_trt.export.step_graph import export_networks

CASES = ("univoc", "raw", "mol", "gauss", "no_aux", "linear", "linear_no_aux", "turian")


@dataclasses.dataclass
class Case:
    """A small random model, exported and rewritten."""

    checkpoint: Checkpoint
    exported: Networks
    hoisted: Networks
    fused: Networks

    @property
    def model(self) -> Any:
        return dataclasses.replace(self.checkpoint.model.config, groups=self.hoisted.groups)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, reference: ModuleType) -> Case:
    checkpoint = reference.small_checkpoint(request.param)
    exported = export_networks(checkpoint.model, checkpoint.audio.n_mels)
    hoisted, fused, agreements = rewrite(exported, checkpoint.model.config, checkpoint.audio)
    assert all(agreement.passed for agreement in agreements)
    return Case(checkpoint, exported, hoisted, fused)


def sizes(case: Case, steps: int, batch: int) -> dict[str, int]:
    return {"steps": steps, "batch": batch, "window": window_rows(case.model, case.checkpoint.audio, steps)}


def inputs(case: Case, **shape: int) -> dict[str, Any]:
    return decoder_inputs(case.model, **shape)


def operators(networks: Networks) -> Counter[str]:
    return Counter(node.op for node in networks.step.nodes)


def test_every_pass_agrees_with_the_one_before(case: Case) -> None:
    config, audio = case.checkpoint.model.config, case.checkpoint.audio
    folded = fold_embedding(case.exported)
    for before, after in ((case.exported, folded), (folded, case.hoisted), (case.hoisted, case.fused)):
        assert require(check_pass("pass", before, after, config, audio)).largest_error < 1e-4


def test_folding_leaves_no_product_of_the_sample(case: Case) -> None:
    step = fold_embedding(case.exported).step
    fed = [step.tensors()["previous"]]
    fed += [node.outputs[0] for node in fed[0].outputs]
    consumers = {consumer.op for tensor in fed for consumer in tensor.outputs}
    assert consumers <= {"Gather", "Unsqueeze", "Mul", "Add"}


def test_hoisting_leaves_no_product_of_the_conditioning(case: Case) -> None:
    inputs = [tensor.name for tensor in case.hoisted.step.inputs]
    assert "conditioning" not in inputs
    rows = [tensor for tensor in case.hoisted.step.inputs if tensor.name.startswith("row_")]
    assert len(rows) == len(case.hoisted.rows) > 0
    assert {consumer.op for row in rows for consumer in row.outputs} == {"Add"}


def test_gates_are_fused_into_one_node_a_layer(case: Case) -> None:
    counts = operators(case.fused)
    layers = case.model.layers
    assert counts["CustomGRUPlugin"] == layers
    assert counts["Sigmoid"] == counts["Tanh"] == 0
    for node in case.fused.step.nodes:
        if node.op == "CustomGRUPlugin":
            assert node.attrs["hidden_size"] == case.model.hidden_size
            assert node.attrs["input_size"] in case.model.input_sizes
            assert node.attrs["plugin_version"] == "1"
            assert node.attrs["plugin_namespace"] == "wavernn_trt"


def test_unrolled_decoder_is_the_step_repeated(case: Case) -> None:
    shape = sizes(case, steps=40, batch=3)
    decoder = to_model(unroll(case.fused, case.model, **shape))
    onnx.checker.check_model(decoder, full_check=True)
    counts = Counter(node.op_type for node in decoder.graph.node)
    assert counts["CustomGRUPlugin"] == 40 * case.model.layers
    assert not {"Loop", "If", "Scan", "Sigmoid", "Tanh"} & set(counts)
    assert compatibility_report(decoder, static=True).violations == ()
    audio = case.checkpoint.audio
    agreement = check_decoder("unroll", case.exported, decoder, case.model, audio, **shape, hoisted=case.fused)
    assert require(agreement).equal_samples == (None if case.model.output != "categorical" else 120)


def test_unrolled_steps_share_their_weights(case: Case) -> None:
    few, many = (to_model(unroll(case.fused, case.model, **sizes(case, steps, 1))) for steps in (2, 50))
    names = [tensor.name for tensor in many.graph.initializer]
    assert len(names) == len(set(names))
    weights = [sum(t.ByteSize() for t in m.graph.initializer if len(t.dims) > 1) for m in (few, many)]
    assert weights[0] == weights[1]


def test_loop_is_the_unrolled_decoder(case: Case) -> None:
    shape = sizes(case, steps=30, batch=2)
    unrolled = run_graph(to_model(unroll(case.fused, case.model, **shape)), inputs(case, **shape))
    loop = run_graph(to_model(free_running_loop(case.hoisted, case.model)), inputs(case, **shape))
    assert_close(loop, unrolled)


def test_two_chunks_are_one_long_chunk(case: Case) -> None:
    loop = to_model(free_running_loop(case.hoisted, case.model))
    shape = sizes(case, steps=31, batch=2)
    whole = inputs(case, **shape)
    first, second = (dict(whole), dict(whole))
    cuts = ((first, slice(0, 13)), (second, slice(13, 31)))
    for part, span in cuts:
        for name, axis in (("frame_index", 1), ("uniforms", 1), ("interpolation", 2)):
            if name in part:
                part[name] = part[name][(slice(None),) * axis + (span,)]
    one = run_graph(loop, first)
    second["previous"], second["hidden"] = one["previous_out"], one["hidden_out"]
    two = run_graph(loop, second)
    expected = run_graph(loop, whole)
    np.testing.assert_array_equal(np.concatenate([one["samples"], two["samples"]], axis=1), expected["samples"])
    np.testing.assert_array_equal(two["hidden_out"], expected["hidden_out"])


@pytest.mark.parametrize("batch", [2, 5, 17])
def test_a_stream_has_the_same_bits_alone_and_in_a_batch(case: Case, batch: int) -> None:
    loop = to_model(free_running_loop(case.hoisted, case.model))
    together = inputs(case, **sizes(case, steps=25, batch=batch))
    expected = run_graph(loop, together)
    for stream in (0, batch - 1):
        alone = {name: value[stream : stream + 1] for name, value in together.items() if name != "hidden"}
        alone["hidden"] = together["hidden"][:, stream : stream + 1]
        found = run_graph(loop, alone)
        np.testing.assert_array_equal(found["samples"][0], expected["samples"][stream])
        np.testing.assert_array_equal(found["hidden_out"][:, 0], expected["hidden_out"][:, stream])


def test_teacher_forcing_with_its_own_samples_gives_the_state_of_free_running(case: Case) -> None:
    shape = sizes(case, steps=20, batch=2)
    values = inputs(case, **shape)
    free = run_graph(to_model(free_running_loop(case.hoisted, case.model)), values)
    fed = free["samples"]
    if case.model.output == "categorical" and not case.model.label_feedback:
        fed = (2 * fed / (case.model.outputs - 1) - 1).astype(np.float32)
    values["previous"] = np.concatenate([values["previous"][:, None], fed[:, :-1]], axis=1).astype(
        values["previous"].dtype
    )
    del values["uniforms"]
    forced = run_graph(to_model(teacher_forced_loop(case.hoisted, case.model)), values)
    assert forced["logits"].shape == (2, 20, case.model.outputs)
    np.testing.assert_allclose(forced["hidden_out"], free["hidden_out"], atol=1e-6)


def test_a_pass_that_changes_the_result_is_refused(case: Case) -> None:
    broken = fuse_gates(case.hoisted, case.model.input_sizes)
    cell = next(node for node in broken.step.nodes if node.op == "CustomGRUPlugin")
    cell.inputs[3].values = cell.inputs[3].values + np.float32(0.05)
    agreement = check_pass("fuse the gates", case.hoisted, broken, case.model, case.checkpoint.audio)
    with pytest.raises(RewriteError, match="fuse the gates changes what the graph computes"):
        require(agreement)


def test_only_a_recurrent_conditioner_has_a_form_in_blocks(case: Case) -> None:
    blocks = conditioner_in_blocks(case.hoisted.conditioner)
    if case.model.family != "univoc":
        assert blocks is None
        return
    assert blocks is not None
    assert [tensor.name for tensor in blocks.inputs] == ["mel", "state_0", "state_1"]
    assert [tensor.name for tensor in blocks.outputs] == ["conditioning", "next_state_0", "next_state_1"]
    whole, settings = case.hoisted.conditioner, (case.model, case.checkpoint.audio)
    agreement = check_blocks("blocks", whole, blocks, *settings)
    assert require(agreement).largest_error < 1e-5
    broken = blocks.copy()
    swapped = next(node for node in broken.nodes if node.op == "GRU")
    swapped.inputs[1].values = swapped.inputs[1].values[::-1].copy()  # the two directions' weights
    with pytest.raises(RewriteError, match="blocks changes what the graph computes"):
        require(check_blocks("blocks", whole, broken, *settings))


def test_a_conditioner_that_reads_in_one_direction_is_refused(case: Case) -> None:
    graph = case.hoisted.conditioner.copy()
    layers = [node for node in graph.nodes if node.op == "GRU"]
    for layer in layers:
        layer.attrs["direction"] = "forward"
    if layers:
        with pytest.raises(ValueError, match="found a GRU of one direction, expected two"):
            conditioner_in_blocks(graph)
    else:
        assert conditioner_in_blocks(graph) is None


def test_a_cell_of_another_form_is_named(case: Case) -> None:
    other = dataclasses.replace(case.hoisted, step=case.hoisted.step.copy())
    next(node for node in other.step.nodes if node.op == "Sigmoid").op = "HardSigmoid"
    with pytest.raises(PatternError, match=r"HardSigmoid.*expected Sigmoid"):
        fuse_gates(other, case.model.input_sizes)


def test_passes_leave_the_graph_that_they_are_given_unchanged(case: Case) -> None:
    config, audio = case.checkpoint.model.config, case.checkpoint.audio
    before = operators(case.exported)
    hoist_conditioning(fold_embedding(case.exported))
    assert operators(case.exported) == before
    assert check_pass("nothing", case.exported, case.exported, config, audio).largest_error == 0.0
