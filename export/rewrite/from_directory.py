"""Reads the networks of a model directory from its files, for builds of engines.

A build unrolls the step again for its batch, steps and precision, without torch and without the checkpoint. The step is
the body of the loop in ``decoder_loop.onnx``.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from wavernn_trt.export.model_directory import CONDITIONER, DECODER_LOOP, ModelDirectory, ModelDirectoryError
from wavernn_trt.export.networks import Networks, Row
from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
from wavernn_trt.export.rewrite.fuse_sequence import fuse_sequence
from wavernn_trt.export.rewrite.rounded_products import restore_products
from wavernn_trt.export.sequence import FusedSequence


def read_networks(directory: ModelDirectory) -> Networks:
    """Returns the conditioner and the step with hoisted conditioning, as the rewriting passes made them.

    Quantised products are returned as float32 products with rounded weights.

    Raises:
        ModelDirectoryError: the loop is not one that this exporter writes.
    """
    path = directory.file(DECODER_LOOP)
    loop = gs.import_onnx(onnx.load(str(path)))
    scans = [node for node in loop.nodes if node.op == "Scan"]
    if len(scans) != 1:
        raise ModelDirectoryError(f"{path}: found {len(scans)} Scan nodes, expected one; export the checkpoint again")
    (scan,) = scans
    step = scan.attrs["body"].copy()
    if directory.quantization is not None:
        restore_products(step)
    tensors = step.tensors()
    hidden = [f"hidden_{layer}" for layer in range(directory.model.layers)]
    outputs = ["sample", "next_previous", *(f"next_{name}" for name in hidden), "logits"]
    missing = [name for name in ("previous", "uniforms", *hidden, *outputs) if name not in tensors]
    if missing:
        raise ModelDirectoryError(f"{path}: the step lacks the tensor {missing[0]}; export the checkpoint again")
    if directory.model.label_feedback:
        tensors["previous"].dtype = np.dtype(np.int32)  # as in every decoder; the loop uses int64 inside
    # The loop's body outputs copies, because ONNX Runtime requires distinct tensors.
    step.outputs = [tensors[name] for name in outputs]
    step.name = "step"
    step.cleanup(remove_unused_graph_inputs=False).toposort()
    # Files contain no shapes of inner tensors, some of which the passes need.
    step = gs.import_onnx(onnx.shape_inference.infer_shapes(gs.export_onnx(step, do_type_check=False)))
    scanned = scan.inputs[-int(scan.attrs["num_scan_inputs"]) :]
    names = [tensor.name for tensor in step.inputs][-len(scanned) :]
    shapes = {tensor.name: tensor.shape for tensor in step.inputs}
    rows = tuple(
        Row(name, int(shapes[name][1]), _groups(tensor, len(directory.model.groups)))
        for name, tensor in zip(names, scanned, strict=True)
        if name != "uniforms"
    )
    conditioner = gs.import_onnx(onnx.load(str(directory.file(CONDITIONER))))
    return Networks(conditioner, step, directory.model.groups, rows)


def fuse_directory(directory: ModelDirectory) -> FusedSequence:
    """Returns the decoder for the kernels of ``plugins/``, from the graphs; as in ``sequence.npz``, if there is one.

    Raises:
        ModelDirectoryError: as for `read_networks`.
        PatternError: the kernels do not compute this decoder.
    """
    return fuse_sequence(fuse_gates(read_networks(directory), directory.model.input_sizes), directory.model)


def _groups(row: gs.Tensor, count: int) -> tuple[int, ...]:
    """Returns the column groups of a step's conditioning input, by following its producers in the expansion."""
    found: set[int] = set()
    waiting = [row]
    while waiting:
        node = waiting.pop().inputs[0]
        group = next((g for g in range(count) if node.name == f"steps_{g}"), None)
        if group is not None:
            found.add(group)
        else:
            waiting += [tensor for tensor in node.inputs if tensor.inputs]
    return tuple(sorted(found))
