"""Compares rewritten graphs with the graphs before them, both run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig, ColumnGroup, ModelConfig
from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.networks import Networks

TOLERANCE = 1e-4
"""Largest allowed error relative to the largest value: some hundred times float32's rounding in these sums."""
_FRAMES = 9


class RewriteError(RuntimeError):
    """A rewritten graph computes other results than the graph before it."""


@dataclass(frozen=True)
class Agreement:
    """Result of comparing two graphs."""

    what: str
    """The pass or file that was checked."""
    steps: int
    """Number of compared steps."""
    equal_samples: int | None
    """Number of samples with the same class; ``None`` where only real numbers were compared."""
    samples: int | None
    """Number of compared samples."""
    largest_error: float
    """Largest absolute difference of logits and hidden states (and samples of mixtures)."""
    scale: float
    """Largest absolute value among them."""

    @property
    def passed(self) -> bool:
        """Whether the error is within `TOLERANCE` and all classes are equal."""
        return self.largest_error <= TOLERANCE * max(self.scale, 1.0) and self.equal_samples == self.samples


def require(agreement: Agreement) -> Agreement:
    """Returns the agreement if it passed.

    Raises:
        RewriteError: it did not pass.
    """
    if not agreement.passed:
        raise RewriteError(
            f"{agreement.what} changes what the graph computes: largest error {agreement.largest_error:.3g} on values "
            f"up to {agreement.scale:.3g}, {agreement.equal_samples} of {agreement.samples} samples equal. This is a "
            "bug; please report it with the checkpoint's sizes (wavernn-trt inspect)."
        )
    return agreement


def check_pass(what: str, before: Networks, after: Networks, model: ModelConfig, audio: AudioConfig) -> Agreement:
    """Compares the steps of two networks on the same random mel, previous samples and states."""
    steps = 16
    scenario = Scenario(model, audio, steps=steps, batch=3, window=4)
    one, other = _Stepper(before, model, scenario), _Stepper(after, model, scenario)
    error = scale = 0.0
    for step in range(steps):
        previous = scenario.random_previous()
        expected, found = one.run(step, previous), other.run(step, previous)
        for name, value in expected.items():
            if name == "logits" or name.startswith("next_hidden"):
                error = max(error, float(np.abs(value - found[name]).max()))
                scale = max(scale, float(np.abs(value).max()))
    return Agreement(what, steps, None, None, error, scale)


def check_decoder(
    what: str, networks: Networks, decoder: onnx.ModelProto | str, model: ModelConfig, audio: AudioConfig,
    *, steps: int, batch: int, window: int, hoisted: Networks,
) -> Agreement:  # fmt: skip
    """Compares a whole chunk with the exported step, which is run once per sample.

    Random numbers are moved to the middle of their class, so that rounding cannot change a sample.
    """
    scenario = Scenario(model, audio, steps=steps, batch=batch, window=window)
    stepper = _Stepper(networks, model, scenario)
    previous = scenario.first_previous()
    samples = np.zeros((batch, steps), np.float64)
    uniforms = scenario.uniforms.copy()
    for step in range(steps):
        hidden = dict(stepper.hidden)
        logits = stepper.run(step, previous)["logits"]
        uniforms[:, step, 0] = middle_of_class(
            logits[:, :10] if model.output == "logistic_mixture" else logits, uniforms[:, step, 0]
        )
        if model.output == "gaussian":
            uniforms[:, step] = scenario.uniforms[:, step]
        stepper.hidden = hidden
        results = stepper.run(step, previous, uniforms[:, step])
        samples[:, step], previous = results["sample"], results["next_previous"]
    inputs = scenario.chunk_inputs(scenario.conditioning(hoisted), uniforms)
    found, hidden_out = open_session(decoder).run(["samples", "hidden_out"], inputs)
    expected_hidden = np.stack([stepper.hidden[f"hidden_{layer}"] for layer in range(model.layers)])
    error = float(np.abs(expected_hidden - hidden_out).max())
    if model.output == "categorical":
        equal = int((found == samples).sum())
        return Agreement(what, steps, equal, samples.size, error, float(np.abs(expected_hidden).max()))
    error = max(error, float(np.abs(found - samples).max()))
    return Agreement(what, steps, None, None, error, 1.0)


def check_blocks(
    what: str, conditioner: gs.Graph, blocks: gs.Graph, model: ModelConfig, audio: AudioConfig
) -> Agreement:
    """Runs a conditioner over a mel, and its form with states over two blocks of it, and compares the rows.

    Layers get their states one after the other, the lowest first: what a layer reads depends on those below it.
    """
    scenario = Scenario(model, audio, steps=1, batch=2, window=1)
    (expected,) = open_session(to_model(conditioner)).run(["conditioning"], {"mel": scenario.mel})
    session = open_session(to_model(blocks))
    shapes = {value.name: value.shape for value in session.get_inputs() if value.name != "mel"}
    zeros = {name: np.zeros((2, len(scenario.mel), shape[2]), np.float32) for name, shape in shapes.items()}
    first, second = ({name: value.copy() for name, value in zeros.items()} for _ in range(2))
    parts = np.array_split(scenario.mel, 2, axis=2)
    for layer in range(len(shapes) + 1):
        (rows, *after), (other_rows, *before) = (
            session.run(None, {"mel": part, **states}) for part, states in zip(parts, (first, second), strict=True)
        )
        if layer < len(shapes):
            second[f"state_{layer}"][0] = after[layer][0]
            first[f"state_{layer}"][1] = before[layer][1]
    found = np.concatenate([rows, other_rows], axis=1)
    return Agreement(what, 1, None, None, float(np.abs(found - expected).max()), float(np.abs(expected).max()))


def middle_of_class(logits: NDArray[np.float32], uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Moves each random number to the middle of its class: logits [B, C], uniforms [B] -> [B]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    cumulative = np.cumsum(shifted / shifted.sum(axis=1, keepdims=True), axis=1)
    chosen = np.argmax(cumulative > uniforms[:, None], axis=1)
    upper = np.take_along_axis(cumulative, chosen[:, None], 1)[:, 0]
    lower = np.where(chosen > 0, np.take_along_axis(cumulative, np.maximum(chosen - 1, 0)[:, None], 1)[:, 0], 0.0)
    return ((upper + lower) / 2).astype(np.float32)


class Scenario:
    """Random inputs of a chunk: a mel, its window's rows, previous samples, random numbers."""

    def __init__(self, model: ModelConfig, audio: AudioConfig, *, steps: int, batch: int, window: int) -> None:
        self.random = np.random.default_rng(1024)
        self.model, self.batch, self.steps, self.window = model, batch, steps, window
        low, high = audio.mel_range if audio.log == "decibel" else (-11.0, 2.0)
        self.mel = self.random.uniform(low, high, (1, audio.n_mels, _FRAMES)).astype(np.float32)
        self.rows = self.random.integers(0, _FRAMES, (batch, window))
        self.frame_index = self.random.integers(0, window, (batch, steps), dtype=np.int32)
        weights = self.random.random((batch, max(model.interpolated, 1), steps, window), np.float32)
        self.interpolation = weights / weights.sum(axis=3, keepdims=True)
        self.uniforms = self.random.uniform(0.01, 0.99, (batch, steps, model.uniforms)).astype(np.float32)

    def windows(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Conditioner's output for the mel [1, N + 2 * margin, columns] -> each stream's window [B, W, columns]."""
        cut: NDArray[np.float32] = rows[0][self.rows + self.model.margin]
        return cut

    def conditioning(self, networks: Networks) -> NDArray[np.float32]:
        """Returns each stream's window from an exported conditioner, [B, W, columns]."""
        (rows,) = open_session(to_model(networks.conditioner)).run(["conditioning"], {"mel": self.mel})
        return self.windows(rows)

    def expanded(
        self, conditioning: NDArray[np.float32], groups: Sequence[ColumnGroup], step: int
    ) -> list[NDArray[np.float32]]:
        """Returns one step's conditioning, [B, columns] for each group, as `add_expansion` computes it."""
        expanded, start, interpolated = [], 0, 0
        for group in groups:
            columns = conditioning[:, :, start : start + group.columns]
            start += group.columns
            if group.expansion == "held":
                expanded.append(columns[np.arange(self.batch), self.frame_index[:, step]])
            else:
                weights = self.interpolation[:, interpolated, step]
                expanded.append(np.einsum("bw,bwc->bc", weights, columns))
                interpolated += 1
        return expanded

    def first_previous(self) -> NDArray[Any]:
        """Returns the previous samples of the first step, [B]."""
        dtype = np.int32 if self.model.label_feedback else np.float32
        return np.full(self.batch, self.model.first_previous, dtype)

    def random_previous(self) -> NDArray[Any]:
        """Returns random previous samples, [B]."""
        if self.model.label_feedback:
            return self.random.integers(0, self.model.outputs, self.batch, dtype=np.int32)
        return self.random.uniform(-1, 1, self.batch).astype(np.float32)

    def chunk_inputs(self, conditioning: NDArray[np.float32], uniforms: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Returns a decoder's inputs at the start of an utterance."""
        model = self.model
        inputs = {"conditioning": conditioning, "uniforms": uniforms, "previous": self.first_previous()}
        inputs["hidden"] = np.zeros((model.layers, self.batch, model.hidden_size), np.float32)
        if model.interpolated < len(model.groups):
            inputs["frame_index"] = self.frame_index
        if model.interpolated:
            inputs["interpolation"] = self.interpolation
        return inputs


class _Stepper:
    """Runs a step once per sample and keeps its hidden states."""

    def __init__(self, networks: Networks, model: ModelConfig, scenario: Scenario) -> None:
        self.networks, self.scenario = networks, scenario
        self.session = open_session(to_model(networks.step))
        self.types = {value.name: value.type for value in self.session.get_inputs()}
        self.names = [value.name for value in self.session.get_outputs()]
        self.conditioning = scenario.conditioning(networks)
        zeros = np.zeros((scenario.batch, model.hidden_size), np.float32)
        self.hidden = {f"hidden_{layer}": zeros for layer in range(model.layers)}

    def run(
        self, step: int, previous: NDArray[Any], uniforms: NDArray[np.float32] | None = None
    ) -> dict[str, NDArray[Any]]:
        if uniforms is None:
            uniforms = self.scenario.uniforms[:, step]
        inputs = {**self.hidden, **self._rows(step), "previous": previous, "uniforms": uniforms}
        if self.types.get("previous") == "tensor(int32)":
            inputs["previous"] = previous.astype(np.int32)
        outputs = self.session.run(None, {name: value for name, value in inputs.items() if name in self.types})
        results = dict(zip(self.names, outputs, strict=True))
        self.hidden = {name: results[f"next_{name}"] for name in self.hidden}
        return results

    def _rows(self, step: int) -> dict[str, NDArray[np.float32]]:
        groups = self.networks.groups
        expanded = self.scenario.expanded(self.conditioning, groups, step)
        if not self.networks.rows:
            return {"conditioning": np.concatenate(expanded, axis=1)}
        rows, offsets = {}, [0] * len(groups)
        for row in self.networks.rows:
            rows[row.name] = np.zeros((self.scenario.batch, row.width), np.float32)
            for index in row.groups:
                rows[row.name] += expanded[index][:, offsets[index] : offsets[index] + row.width]
                offsets[index] += row.width
        return rows


def open_session(model: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    """Opens a graph or its file without optimisation."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # For a thousand unrolled steps this takes less than half the time.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
