"""From a checkpoint to a model directory."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from safetensors.torch import save_file

import wavernn_trt
from wavernn_trt.export.checkpoint import Checkpoint, read_checkpoint
from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.graph_files import to_model, write_models
from wavernn_trt.export.model_directory import (
    CHECKPOINT,
    CONDITIONER,
    DECODER,
    DECODER_LOOP,
    MANIFEST,
    PROBE,
    TEACHER_FORCED,
    UPSAMPLING,
    WEIGHTS,
    DecoderShape,
    ModelDirectory,
    ModelDirectoryError,
    open_model_directory,
    window_rows,
    write_config,
    write_manifest,
)
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.probe import make_probe
from wavernn_trt.export.probe_record import write_probe
from wavernn_trt.export.rewrite.check import Agreement, check_decoder, check_pass, require
from wavernn_trt.export.rewrite.fold_embedding import fold_embedding
from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
from wavernn_trt.export.rewrite.hoist_conditioning import hoist_conditioning
from wavernn_trt.export.rewrite.loop import free_running_loop, teacher_forced_loop
from wavernn_trt.export.rewrite.unroll import unroll
from wavernn_trt.export.step_graph import export_networks

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins."""

_CHECKED_STEPS = 12
"""Steps of the short unrolled graph that is checked on every export; ``verify`` checks the whole file."""


@dataclass(frozen=True)
class ExportResult:
    """What an export made."""

    directory: ModelDirectory
    agreements: tuple[Agreement, ...]
    """One for each rewriting pass and each decoder file."""
    assumed: tuple[str, ...]
    """Documented defaults taken for what neither the checkpoint nor a config file nor an option said."""


def export(
    checkpoint: Checkpoint | str | Path,
    out_dir: str | Path,
    steps: int = 1024,
    batch: int = 1,
    *,
    verify: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Writes a model directory.

    Args:
        checkpoint: what `read_checkpoint` gave, or a path for it.
        out_dir: the directory to make. It appears whole or not at all.
        steps: steps of the unrolled decoder, one or more.
        batch: streams of the unrolled decoder, one or more.
        verify: also run the finished ``decoder.onnx`` at its full length against the step as exported from torch.
        overwrite: replace ``out_dir`` if it is a model directory.
        progress: told what is being done.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ModelDirectoryError: ``out_dir`` exists and may not be replaced.
        RewriteError: a rewritten graph does not compute what it should.
        ValueError: ``steps`` or ``batch`` is not a positive integer.
    """
    for name, value in (("steps", steps), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: found {value!r}, expected an integer, at least 1")
    out_dir = Path(out_dir).resolve()
    _refuse_to_replace(out_dir, overwrite)
    say = progress or (lambda stage: None)
    if not isinstance(checkpoint, Checkpoint):
        say("reading the checkpoint")
        checkpoint = read_checkpoint(checkpoint)
    audio = checkpoint.audio
    say("exporting one step from torch")
    exported = export_networks(checkpoint.model, audio.n_mels)
    say("rewriting the step")
    hoisted, fused, agreements = rewrite(exported, checkpoint.model.config, audio)
    model = dataclasses.replace(checkpoint.model.config, groups=hoisted.groups)
    shape = DecoderShape(steps, batch, window_rows(model, audio, steps))
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        say(f"unrolling {steps} steps")
        _write_files(building, checkpoint, exported, hoisted, fused, model, shape, agreements)
        if verify:
            say(f"verifying {steps} steps")
            agreements.append(_verify_decoder(building, exported, fused, model, audio, shape))
        _open_permissions(building)
        _move_into_place(building, out_dir)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return ExportResult(open_model_directory(out_dir), tuple(agreements), checkpoint.assumed)


def rewrite(exported: Networks, model: ModelConfig, audio: AudioConfig) -> tuple[Networks, Networks, list[Agreement]]:
    """Runs the passes on one step, each checked against the one before.

    Passes run before unrolling, not after: the result is the same, and each is checked in milliseconds.

    Returns:
        The networks with the conditioning hoisted (what loops run), the same with fused gates (what is unrolled), and
        how closely each pass agreed.
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
) -> None:
    audio = checkpoint.audio
    short = min(shape.steps, _CHECKED_STEPS)
    sizes = {"steps": short, "batch": shape.batch, "window": window_rows(model, audio, short)}
    checked = to_model(unroll(fused, model, **sizes))
    agreements.append(require(check_decoder("unroll", exported, checked, model, audio, **sizes, hoisted=fused)))
    loop = to_model(free_running_loop(hoisted, model))
    agreements.append(require(check_decoder("loop", exported, loop, model, audio, **sizes, hoisted=hoisted)))
    decoder = unroll(fused, model, steps=shape.steps, batch=shape.batch, window=shape.window)
    models = {
        DECODER: to_model(decoder),
        DECODER_LOOP: loop,
        TEACHER_FORCED: to_model(teacher_forced_loop(hoisted, model)),
    }
    write_models(folder, models, WEIGHTS)
    onnx.save(to_model(hoisted.conditioner), folder / CONDITIONER)
    for name in (*models, CONDITIONER):
        onnx.checker.check_model(str(folder / name), full_check=True)
    if checkpoint.model.upsampling is not None:
        np.save(folder / UPSAMPLING, checkpoint.model.upsampling.astype(np.float32))
    save_file({name: tensor.contiguous() for name, tensor in checkpoint.state.items()}, folder / CHECKPOINT)
    source = {
        **(checkpoint.source or {"checkpoint": checkpoint.path.name, "sha256": checkpoint.sha256}),
        "exporter": f"wavernn-trt {wavernn_trt.__version__}",
        "parameters": sum(tensor.numel() for tensor in checkpoint.state.values()),
    }
    write_config(folder, model, audio, shape, source)
    write_probe(folder / PROBE, make_probe(checkpoint.model, audio))
    write_manifest(folder)


def _verify_decoder(
    folder: Path, exported: Networks, fused: Networks, model: ModelConfig, audio: AudioConfig, shape: DecoderShape
) -> Agreement:
    sizes = {"steps": shape.steps, "batch": shape.batch, "window": shape.window}
    decoder = str(folder / DECODER)
    return require(check_decoder(DECODER, exported, decoder, model, audio, **sizes, hoisted=fused))


def _refuse_to_replace(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    if not (out_dir / MANIFEST).is_file():
        raise ModelDirectoryError(f"{out_dir} exists and is not a model directory; choose another place with -o")
    if not overwrite:
        raise ModelDirectoryError(f"{out_dir} exists; choose another place with -o, or replace it with --overwrite")


def _move_into_place(building: Path, out_dir: Path) -> None:
    if not out_dir.exists():
        building.rename(out_dir)
        return
    # A directory cannot be renamed over one with files in it: the old one steps aside, and comes back if need be.
    aside = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.old.", dir=out_dir.parent))
    try:
        out_dir.rename(aside / out_dir.name)
        try:
            building.rename(out_dir)
        except BaseException:
            (aside / out_dir.name).rename(out_dir)
            raise
    finally:
        if out_dir.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _open_permissions(folder: Path) -> None:
    """Gives a temporary folder and its files, made for this user only, the permissions of ordinary new ones."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)
