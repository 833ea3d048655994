"""Writes a model directory with rounded products."""

from __future__ import annotations

import shutil
from pathlib import Path

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.export.grids import round_weight
from wavernn_trt.export.model_directory import (
    CHECKPOINT,
    PROBE,
    DecoderShape,
    ModelDirectory,
    open_model_directory,
    window_rows,
    write_config,
    write_manifest,
)
from wavernn_trt.export.new_directory import check_sizes, new_directory, refuse_to_replace, write_graphs
from wavernn_trt.export.quantization import Quantization, weight_name
from wavernn_trt.export.rewrite.explicit_quantization import quantize_products, quantized_layers
from wavernn_trt.export.rewrite.from_directory import read_networks
from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
from wavernn_trt.export.rewrite.fuse_sequence import fuse_if_possible
from wavernn_trt.export.rewrite.rounded_products import round_products
from wavernn_trt.export.sequence import FusedSequence


def check_unquantized(directory: ModelDirectory) -> None:
    """Checks that a directory is not quantised.

    Raises:
        CalibrationError: its products are rounded.
    """
    if directory.quantization is not None:
        raise CalibrationError(f"{directory.path} is quantised already; use its original directory")


def quantize(
    directory: ModelDirectory,
    quantization: Quantization,
    out_dir: str | Path,
    *,
    steps: int | None = None,
    batch: int | None = None,
    overwrite: bool = False,
) -> ModelDirectory:
    """Writes a model directory with rounded products, for every executor and for ``build``.

    Its loops are rewritten by `wavernn_trt.export.rewrite.rounded_products`, its ``decoder.onnx`` by
    `wavernn_trt.export.rewrite.explicit_quantization`. The trained weights are copied unchanged.

    Args:
        directory: a verified model directory, not quantised.
        quantization: the products to round.
        out_dir: the directory to make. It appears whole or not at all.
        steps: steps of the unrolled decoder; by default those of the directory's.
        batch: its streams; likewise.
        overwrite: replace ``out_dir`` if it is a model directory.

    Raises:
        ModelDirectoryError: ``out_dir`` exists and may not be replaced, or the directory's graphs are not this
            exporter's.
        ValueError: no products, products that the model does not have, or a quantised directory.
    """
    out_dir, model = Path(out_dir), directory.model
    check_unquantized(directory)
    if out_dir.resolve() == directory.path.resolve():
        raise CalibrationError(f"{out_dir} is the directory to quantise; choose another output with -o")
    if not quantization.products:
        raise ValueError("every product is kept in float32: nothing is left to quantise")
    quantization.check(model)
    steps = directory.decoder.steps if steps is None else steps
    batch = directory.decoder.batch if batch is None else batch
    check_sizes(steps, batch)
    refuse_to_replace(out_dir, overwrite=overwrite)
    networks = read_networks(directory)
    loops = round_products(networks, model, quantization)
    unrolled = fuse_gates(
        quantize_products(networks, model, quantization), model.input_sizes, unfused=quantized_layers(quantization)
    )
    sequence = fuse_if_possible(fuse_gates(networks, model.input_sizes), model)
    rounded = None if sequence is None else _rounded(sequence, quantization)
    shape = DecoderShape(steps, batch, window_rows(model, directory.audio, steps))
    with new_directory(out_dir, overwrite=overwrite) as building:
        write_graphs(building, loops, unrolled, model, shape, rounded, directory.upsampling)
        for name in (CHECKPOINT, PROBE):
            if directory.file(name).exists():
                shutil.copyfile(directory.file(name), building / name)
        write_config(building, model, directory.audio, shape, directory.source, quantization)
        write_manifest(building)
    return open_model_directory(out_dir)


def _rounded(sequence: FusedSequence, quantization: Quantization) -> FusedSequence:
    """Returns a decoder with the weights of quantised products rounded to their grids."""
    rounded = {
        weight_name(name): round_weight(sequence.weights[weight_name(name)], product)
        for name, product in quantization.products.items()
    }
    return FusedSequence(sequence.shape, {**sequence.weights, **rounded})
