"""An executor that returns the activations of a model's matrix products under teacher forcing."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wavernn_trt.calibration.quantize import check_unquantized
from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.model_directory import TEACHER_FORCED, ModelDirectory
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.loop import teacher_forced_loop
from wavernn_trt.export.rewrite.products import find_products
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor, open_session
from wavernn_trt.runtime.executors.protocol import Chunk, FloatArray


class ObservingExecutor(OnnxRuntimeExecutor):
    """Decodes like the model; under teacher forcing it returns the products' inputs instead of logits.

    The inputs of a step's products are concatenated, [B, T, activations]; `columns` has the columns of each product. So
    `wavernn_trt.runtime.decoding.teacher_forcing.force_streams` handles them, and their padding, like logits.
    """

    def __init__(self, directory: ModelDirectory, threads: int | None = None) -> None:
        """Builds the graph and opens its session.

        Args:
            directory: a verified model directory, not quantised.
            threads: CPU threads; see `OnnxRuntimeExecutor`.

        Raises:
            CalibrationError: the directory is quantised.
            ModelDirectoryError: its graphs are not this exporter's.
        """
        check_unquantized(directory)
        super().__init__(directory, threads)
        networks, model = read_networks(directory), directory.model
        products = find_products(networks.step, model)
        states = {f"{kind}_{layer}" for kind in ("hidden", "next_hidden") for layer in range(model.layers)}
        self.states = frozenset(name for name, node in products.items() if node.inputs[0].name in states)
        """Products that read a recurrent state only."""
        self.columns: dict[str, slice] = {}
        """Columns of each product's activations."""
        start = 0
        for name, node in products.items():
            width = node.inputs[1].values.shape[1]  # [N, K]
            self.columns[name] = slice(start, start + width)
            start += width
        graph = teacher_forced_loop(networks, model, [node.inputs[0].name for node in products.values()])
        with tempfile.TemporaryDirectory() as folder:
            observed = dataclasses.replace(directory, path=Path(folder))
            observed.file(TEACHER_FORCED).write_bytes(to_model(graph).SerializeToString())
            self._observed = open_session(observed, TEACHER_FORCED, self._threads)

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns activations [B, T, all] of steps fed with ``previous`` [B, T], and the recurrent state after them."""
        inputs = {**self._chunk_inputs(chunk), "previous": previous, "hidden": hidden}
        activations, following = self._observed.run(["logits", "hidden_out"], inputs)
        return activations, following
