"""The numpy sequence is each family's own decoder, and in low precision better than a plain pipeline of that type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the families are PyTorch modules")
pytest.importorskip("onnx", reason="weights come out of the rewritten step's graph")

import onnxruntime
from torch.nn import functional

from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.operators import PRECISIONS, Precision, SequenceShape
from wavernn_trt.plugins.reference import decode_sequence
from wavernn_trt.plugins.stored_weights import store
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows

LAYOUTS = ("univoc", "raw", "mol", "gauss", "no_aux", "linear", "linear_no_aux", "turian")
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module", params=LAYOUTS)
def decoder(request: pytest.FixtureRequest, small_decoder: Callable[[str], Any]) -> Any:
    return small_decoder(request.param)


def utterance(decoder: Any, steps: int, start: int) -> tuple[Any, Arrays]:
    """Two random mels, and what the chunk from step ``start`` on reads of their conditioning."""
    checkpoint = decoder.checkpoint
    audio = checkpoint.audio
    mel = np.random.default_rng(3).uniform(-1, 1, (2, audio.n_mels, 11)).astype(np.float32)
    session = onnxruntime.InferenceSession(to_model(decoder.fused.conditioner).SerializeToString())
    rows = session.run(None, {"mel": mel})[0]
    windows = ConditioningWindows(decoder.model, audio, steps, checkpoint.model.upsampling)
    cut = [windows.cut(each, start) for each in rows]
    chunk = decoder.chunk(steps, 2)
    chunk["conditioning"] = np.stack([window.rows for window in cut])
    if "frame_index" in chunk:
        chunk["frame_index"] = np.stack([window.frame_index for window in cut])
    if "interpolation" in chunk:
        chunk["interpolation"] = np.stack([window.interpolation for window in cut])
    return torch.from_numpy(mel), chunk


def random_feedback(shape: SequenceShape, batch: int, steps: int) -> NDArray[Any]:
    random = np.random.default_rng(9)
    if shape.label_feedback:
        return random.integers(0, shape.outputs, (batch, steps), dtype=np.int32)
    return random.uniform(-1, 1, (batch, steps)).astype(np.float32)


def test_teacher_forced_logits_are_the_familys(decoder: Any, reference: ModuleType) -> None:
    """From a mel through the hoisted conditioner and the windows, compared with the trained modules."""
    steps, start, model = 40, 7, decoder.checkpoint.model
    mel, chunk = utterance(decoder, steps, start)
    forced = random_feedback(decoder.sequence.shape, 2, steps)
    found = decode_sequence(decoder.sequence.shape, decoder.operands(chunk), forced=forced)
    conditioning = reference.utterance(model, mel, decoder.checkpoint.audio.hop_length)[start : start + steps]
    hidden, expected = torch.from_numpy(chunk["hidden"]), []
    with torch.no_grad():
        for step in range(steps):
            logits, hidden = model.step(torch.from_numpy(forced[:, step]), hidden, conditioning[step])
            expected.append(logits)
    logits = torch.stack(expected, dim=1).numpy()
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5 * max(1.0, np.abs(logits).max()))
    np.testing.assert_allclose(found["hidden_out"], hidden.numpy(), atol=1e-5)


def test_samples_are_those_of_the_familys_sampler(decoder: Any) -> None:
    chunk = decoder.chunk(steps=60, batch=3)
    found = decode_sequence(decoder.sequence.shape, decoder.operands(chunk))
    sampler = decoder.checkpoint.model.sampler
    for step in range(60):
        arguments = (torch.from_numpy(found["logits"][:, step]), torch.from_numpy(chunk["uniforms"][:, step]))
        sample, following = (value.numpy() for value in sampler(*arguments))
        np.testing.assert_allclose(found["samples"][:, step], sample, atol=1e-6)
    np.testing.assert_allclose(found["previous_out"], following, atol=1e-6)
    for operand in decoder.sequence.shape.outputs_of_node():
        assert found[operand.name].dtype == operand.kind
    assert found["logits"].dtype == np.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_free_running_is_teacher_forcing_with_its_own_samples(decoder: Any, precision: Precision) -> None:
    chunk, shape = decoder.chunk(steps=25, batch=2), decoder.sequence.shape
    free = decode_sequence(shape, decoder.operands(chunk), precision)
    fed = free["samples"]
    if shape.output == "categorical" and not shape.label_feedback:
        fed = (2 * fed.astype(np.float32) / np.float32(shape.outputs - 1) - 1).astype(np.float32)
    forced = np.concatenate([chunk["previous"][:, None], fed[:, :-1]], axis=1)
    again = decode_sequence(shape, decoder.operands(chunk), precision, forced=forced)
    for name, value in free.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_chunks_are_one_long_chunk(decoder: Any, precision: Precision) -> None:
    shape, whole = decoder.sequence.shape, decoder.chunk(steps=31, batch=2)
    expected = decode_sequence(shape, decoder.operands(whole), precision)
    axes = {"frame_index": 1, "uniforms": 1, "interpolation": 2}

    def part(span: slice) -> Arrays:
        return {name: value[(slice(None),) * axes[name] + (span,)] if name in axes else value
                for name, value in whole.items()}  # fmt: skip

    one = decode_sequence(shape, decoder.operands(part(slice(0, 13))), precision)
    carried = {"previous": one["previous_out"], "hidden": one["hidden_out"]}
    two = decode_sequence(shape, decoder.operands({**part(slice(13, 31)), **carried}), precision)
    np.testing.assert_array_equal(np.concatenate([one["samples"], two["samples"]], axis=1), expected["samples"])
    np.testing.assert_array_equal(two["hidden_out"], expected["hidden_out"])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_low_precision_errs_less_than_twice_a_plain_pipeline(decoder: Any, precision: Precision) -> None:
    """Both against float64; the plain pipeline's products give that type's numbers, its gates are float32."""
    shape, steps = decoder.sequence.shape, 40
    operands = decoder.operands(decoder.chunk(steps, batch=4))
    forced = random_feedback(shape, 4, steps)
    low = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    truth, _ = plain_pipeline(shape, operands, forced, products=torch.float64, others=torch.float64)
    plain, _ = plain_pipeline(shape, operands, forced, products=low, others=torch.float32)
    found = decode_sequence(shape, operands, precision, forced=forced)["logits"]
    error, plain_error = (np.abs(logits - truth) for logits in (found, plain))
    assert 0 < np.sqrt((error**2).mean()) <= 2 * np.sqrt((plain_error**2).mean())
    assert error.max() <= 2 * plain_error.max()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_stored_weights_give_the_same_bits_as_float32_ones(decoder: Any, precision: Precision) -> None:
    shape, operands = decoder.sequence.shape, decoder.operands(decoder.chunk(steps=9, batch=2))
    expected = decode_sequence(shape, operands, precision)
    names = {operand.name for operand in shape.weight_inputs() if operand.kind == "weight"}
    stored = {name: store(value, precision) if name in names else value for name, value in operands.items()}
    assert {stored[name].dtype.name for name in names} == {
        {"fp32": "float32", "fp16": "float16"}.get(precision, "uint16")
    }
    for name, value in decode_sequence(shape, stored, precision).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_wrong_inputs_are_named(small_decoder: Callable[[str], Any]) -> None:
    decoder = small_decoder("univoc")
    shape, operands = decoder.sequence.shape, decoder.operands(decoder.chunk(steps=4, batch=2))
    wrong: list[tuple[Mapping[str, Any], str]] = [
        ({"fc_bias_0": None}, "the input fc_bias_0 is missing"),
        ({"previous": np.zeros(3, np.int32)}, r"previous has shape \[3\], expected \[B\] \(B streams, 2\)"),
        ({"previous": np.zeros(2, np.int64)}, "previous is int64, expected int32"),
        ({"recurrent_weight_0": np.zeros((24, 7), np.float32)}, r"has shape \[24, 7\], expected \[24, 8\]"),
    ]
    for change, message in wrong:
        inputs = {name: value for name, value in {**operands, **change}.items() if value is not None}
        with pytest.raises(ValueError, match=message):
            decode_sequence(shape, inputs)
    with pytest.raises(ValueError, match=r"forced has shape \[2, 3\], expected \[2, 4\]"):
        decode_sequence(shape, operands, forced=np.zeros((2, 3), np.int32))


@torch.no_grad()
def plain_pipeline(
    shape: SequenceShape, operands: Arrays, forced: NDArray[Any], *, products: Any, others: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    """A plain decoder in torch: logits [B, T, outputs] and hidden states [L, B, H]."""
    w = {name: torch.from_numpy(value) for name, value in operands.items()}
    w = {name: value.to(others) if value.is_floating_point() else value for name, value in w.items()}
    fed = torch.from_numpy(forced)

    def linear(x: Any, name: str, bias: str) -> Any:
        return functional.linear(x.to(products), w[name].to(products)).to(others) + w[bias]

    def gru(gates: Any, hidden: Any, layer: int) -> Any:
        recurrent = linear(hidden, f"recurrent_weight_{layer}", f"recurrent_bias_{layer}")
        (a, b, c), (d, e, f) = gates.chunk(3, dim=1), recurrent.chunk(3, dim=1)
        new, keep = torch.tanh(c + torch.sigmoid(a + d) * f), torch.sigmoid(b + e)
        return (1 - keep) * new + keep * hidden

    hidden, logits = list(w["hidden"]), []
    streams = torch.arange(len(fed))
    for t in range(fed.shape[1]):
        groups, free = [], 0
        for part, held in zip(w["conditioning"].split(list(shape.group_columns), dim=2), shape.group_held, strict=True):
            if held:
                groups.append(part[streams, w["frame_index"][:, t].long()])
            else:
                groups.append(torch.einsum("bw,bwc->bc", w["interpolation"][:, free, t], part))
                free += 1
        taken = [0] * len(groups)
        rows = []
        for place, indices in zip(shape.places, shape.place_groups, strict=True):
            row = torch.zeros(len(fed), shape.width(place), dtype=others)
            for g in indices:
                row = row + groups[g][:, taken[g] : taken[g] + shape.width(place)]
                taken[g] += shape.width(place)
            rows.append(row)
        value = fed[:, t]
        gates = w["feedback"][value.long()] if shape.label_feedback else value.to(others)[:, None] * w["feedback"][0]
        row = iter(rows)
        hidden[0] = x = gru(gates + next(row) + w["gates_bias_0"], hidden[0], 0)
        if shape.skip:
            x = x + value.to(others)[:, None] * w["skip_column"] + next(row) + w["skip_bias"]
        if shape.layers == 2:
            hidden[1] = gru(linear(x, "input_weight_1", "gates_bias_1") + next(row), hidden[1], 1)
            x = x + hidden[1] if shape.skip else hidden[1]
        for i in range(len(shape.fc_sizes)):
            x = torch.relu(linear(x, f"fc_weight_{i}", f"fc_bias_{i}") + next(row))
        logits.append(linear(x, "output_weight", "output_bias"))
    return torch.stack(logits, dim=1).double().numpy(), torch.stack(hidden).double().numpy()
