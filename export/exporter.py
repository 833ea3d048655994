"""Writes a model directory from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

import wavernn_trt
from wavernn_trt.export.checkpoints.checkpoint import Checkpoint, read_checkpoint
from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.graph_files import to_model
from wavernn_trt.export.model_directory import (
    CHECKPOINT,
    DECODER,
    PROBE,
    DecoderShape,
    ModelDirectory,
    open_model_directory,
    window_rows,
    write_config,
    write_manifest,
)
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.new_directory import check_sizes, new_directory, refuse_to_replace, write_graphs
from wavernn_trt.export.operators import NativePrecision
from wavernn_trt.export.probe import make_probe
from wavernn_trt.export.probe_record import write_probe
from wavernn_trt.export.rewrite.check import Agreement, check_blocks, check_decoder, check_pass, require
from wavernn_trt.export.rewrite.conditioner_blocks import conditioner_in_blocks
from wavernn_trt.export.rewrite.fold_embedding import fold_embedding
from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
from wavernn_trt.export.rewrite.fuse_sequence import fuse_if_possible
from wavernn_trt.export.rewrite.hoist_conditioning import hoist_conditioning
from wavernn_trt.export.rewrite.loop import free_running_loop
from wavernn_trt.export.rewrite.unroll import unroll
from wavernn_trt.export.step_graph import export_networks
from wavernn_trt.export.verification import verify_decoder

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins."""

_UNROUNDED = (
    "every product in float32: the directory is quantised, its trained weights are not; to have it quantised again, "
    "give the result to wavernn-trt quantize"
)
_CHECKED_STEPS = 12
"""Steps of the short unrolled graph that is checked on every export; ``verify`` checks the whole file."""


@dataclass(frozen=True)
class ExportResult:
    """Result of an export."""

    directory: ModelDirectory
    agreements: tuple[Agreement, ...]
    """One for each rewriting pass and each decoder file."""
    assumed: tuple[str, ...]
    """See `Checkpoint.assumed`."""
    notes: tuple[str, ...]
    """See `Checkpoint.notes`."""


def export(
    checkpoint: Checkpoint | str | Path,
    out_dir: str | Path,
    steps: int = 1024,
    batch: int = 1,
    *,
    cpu_precision: NativePrecision | None = None,
    verify: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes a model directory.

    Args:
        checkpoint: from `read_checkpoint`, or a path for it.
        out_dir: the directory to make. It appears whole or not at all.
        steps: steps of the unrolled decoder, one or more.
        batch: streams of the unrolled decoder, one or more.
        cpu_precision: default precision of the weights in the native decoder; ``None`` is that of the model directory
            that is exported again, else fp32.
        verify: also compare the complete ``decoder.onnx`` with the PyTorch modules through polygraphy, run by ONNX
            Runtime and, where it and a GPU are available, by TensorRT.
        overwrite: replace ``out_dir`` if it is a model directory.
        progress: called with the name of each stage as it begins.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ModelDirectoryError: ``out_dir`` exists and may not be replaced.
        RewriteError: a rewritten graph computes other results.
        ValueError: ``steps`` or ``batch`` is not a positive integer.
    """
    report = progress or (lambda stage: None)
    check_sizes(steps, batch)
    refuse_to_replace(Path(out_dir), overwrite=overwrite)
    if not isinstance(checkpoint, Checkpoint):
        report("reading the checkpoint")
        checkpoint = read_checkpoint(checkpoint)
    audio = checkpoint.audio
    report("exporting one step from torch")
    exported = export_networks(checkpoint.model, audio.n_mels)
    report("rewriting the step")
    hoisted, fused, agreements = rewrite(exported, checkpoint.model.config, audio)
    model = dataclasses.replace(checkpoint.model.config, groups=hoisted.groups)
    shape = DecoderShape(steps, batch, window_rows(model, audio, steps))
    with new_directory(Path(out_dir), overwrite=overwrite) as building:
        report(f"unrolling {steps} steps")
        _write_files(building, checkpoint, exported, hoisted, fused, model, shape, agreements, cpu_precision)
        if verify:
            report(f"verifying {steps} steps")
            verified = verify_decoder(building / DECODER, checkpoint.model, fused, model, audio, steps, batch)
            agreements.extend(map(require, verified))
    notes = checkpoint.notes
    if checkpoint.quantization is not None:
        notes = (*notes, _UNROUNDED)
    return ExportResult(open_model_directory(out_dir), tuple(agreements), checkpoint.assumed, notes)


def rewrite(exported: Networks, model: ModelConfig, audio: AudioConfig) -> tuple[Networks, Networks, list[Agreement]]:
    """Runs the passes on one step; each result is compared with the graph before it.

    Passes run before unrolling: the result is the same as after it, and each check takes milliseconds.

    Returns:
        The networks with hoisted conditioning (for loops), the same with fused gates (for unrolling), and the
        agreement of each pass.
    """
    folded = fold_embedding(exported)
    hoisted = hoist_conditioning(folded)
    fused = fuse_gates(hoisted, model.input_sizes)
    agreements = [
        require(check_pass("fold the embedding", exported, folded, model, audio)),
        require(check_pass("hoist the conditioning", folded, hoisted, model, audio)),
        require(check_pass("fuse the gates", hoisted, fused, model, audio)),
    ]
    return hoisted, fused, agreements


def _write_files(
    folder: Path,
    checkpoint: Checkpoint,
    exported: Networks,
    hoisted: Networks,
    fused: Networks,
    model: ModelConfig,
    shape: DecoderShape,
    agreements: list[Agreement],
    cpu_precision: NativePrecision | None,
) -> None:
    audio = checkpoint.audio
    short = min(shape.steps, _CHECKED_STEPS)
    sizes = {"steps": short, "batch": shape.batch, "window": window_rows(model, audio, short)}
    checked = to_model(unroll(fused, model, **sizes))
    agreements.append(require(check_decoder("unroll", exported, checked, model, audio, **sizes, hoisted=fused)))
    loop = to_model(free_running_loop(hoisted, model))
    agreements.append(require(check_decoder("loop", exported, loop, model, audio, **sizes, hoisted=hoisted)))
    if (blocks := conditioner_in_blocks(hoisted.conditioner)) is not None:
        agreements.append(require(check_blocks("condition in blocks", hoisted.conditioner, blocks, model, audio)))
    write_graphs(folder, hoisted, fused, model, shape, fuse_if_possible(fused, model), checkpoint.model.upsampling)
    save_file({name: tensor.contiguous() for name, tensor in checkpoint.state.items()}, folder / CHECKPOINT)
    source = {
        **(checkpoint.source or {"checkpoint": checkpoint.path.name, "sha256": checkpoint.sha256}),
        **({} if checkpoint.preset is None else {"preset": checkpoint.preset}),
        "exporter": f"wavernn-trt {wavernn_trt.__version__}",
        "parameters": sum(tensor.numel() for tensor in checkpoint.state.values()),
    }
    write_config(folder, model, audio, shape, source, cpu_precision=cpu_precision or checkpoint.cpu_precision)
    write_probe(folder / PROBE, make_probe(checkpoint.model, audio))
    write_manifest(folder)
