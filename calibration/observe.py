"""Running a model teacher-forced to see what its matrix products read."""

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
    """Decodes as the model does; teacher-forced, it yields what the products read instead of logits.

    What a step's products read stands side by side, [B, T, activations], `columns` saying whose is where. So it goes
    through `wavernn_trt.runtime.decoding.teacher_forcing.force_streams` as logits do, which knows what is padding.
    """

    def __init__(self, directory: ModelDirectory, threads: int | None = None) -> None:
        """Builds the graph and opens its session.

        Args:
            directory: a verified model directory, not quantised.
            threads: as for `OnnxRuntimeExecutor`.

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
        """The products that read nothing but a recurrent state."""
        self.columns: dict[str, slice] = {}
        """Where each product's activations are."""
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
        """T steps, each fed with ``previous`` [B, T]: activations [B, T, all], and the recurrent state behind them."""
        inputs = {**self._chunk_inputs(chunk), "previous": previous, "hidden": hidden}
        activations, following = self._observed.run(["logits", "hidden_out"], inputs)
        return activations, following
