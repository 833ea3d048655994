"""Writes a model directory atomically."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.graph_files import to_model, write_models
from wavernn_trt.export.model_directory import (
    CONDITIONER,
    CONDITIONER_BLOCKS,
    DECODER,
    DECODER_LOOP,
    MANIFEST,
    TEACHER_FORCED,
    UPSAMPLING,
    WEIGHTS,
    DecoderShape,
    ModelDirectoryError,
)
from wavernn_trt.export.networks import Networks
from wavernn_trt.export.rewrite.conditioner_blocks import conditioner_in_blocks
from wavernn_trt.export.rewrite.loop import free_running_loop, teacher_forced_loop
from wavernn_trt.export.rewrite.unroll import unroll
from wavernn_trt.export.sequence import FusedSequence, write_sequence


@contextmanager
def new_directory(out_dir: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary folder beside ``out_dir``; on success it is renamed to it.

    Args:
        out_dir: the directory to make.
        overwrite: replace it if it is a model directory.

    Raises:
        ModelDirectoryError: it exists and may not be replaced.
    """
    out_dir = out_dir.resolve()
    refuse_to_replace(out_dir, overwrite=overwrite)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        yield building
        _open_permissions(building)
        _move_into_place(building, out_dir)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def check_sizes(steps: int, batch: int) -> None:
    """Checks that the sizes of an unrolled decoder are positive integers.

    Raises:
        ValueError: the name and the found value.
    """
    for name, value in (("steps", steps), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: found {value!r}, expected an integer, at least 1")


def write_graphs(
    folder: Path,
    loops: Networks,
    unrolled: Networks,
    model: ModelConfig,
    shape: DecoderShape,
    sequence: FusedSequence | None,
    upsampling: NDArray[Any] | None,
) -> None:
    """Writes the graphs and their weights, and checks each file.

    Args:
        folder: the temporary folder.
        loops: networks for the loops, which ONNX Runtime runs.
        unrolled: networks for the unrolled decoder, which TensorRT builds from.
        model: the configuration, with the networks' groups of conditioning.
        shape: sizes of the unrolled decoder.
        sequence: the decoder for the kernels of ``plugins/``; ``None`` if they do not compute it.
        upsampling: float32 [hop_length, 2 * margin + 1] where a group is expanded by ``kernel``.
    """
    models = {
        DECODER: to_model(unroll(unrolled, model, steps=shape.steps, batch=shape.batch, window=shape.window)),
        DECODER_LOOP: to_model(free_running_loop(loops, model)),
        TEACHER_FORCED: to_model(teacher_forced_loop(loops, model)),
    }
    write_models(folder, models, WEIGHTS)
    conditioners = {CONDITIONER: loops.conditioner}
    if (blocks := conditioner_in_blocks(loops.conditioner)) is not None:
        conditioners[CONDITIONER_BLOCKS] = blocks
    for name, graph in conditioners.items():
        onnx.save(to_model(graph), folder / name)
    for name in (*models, *conditioners):
        onnx.checker.check_model(str(folder / name), full_check=True)
    if sequence is not None:
        write_sequence(folder, sequence)
    if upsampling is not None:
        np.save(folder / UPSAMPLING, upsampling.astype(np.float32))


def refuse_to_replace(out_dir: Path, *, overwrite: bool) -> None:
    """Checks that a directory may be created or replaced.

    Raises:
        ModelDirectoryError: it exists and may not be replaced.
    """
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
    # A directory cannot be renamed over one with files: the old one is moved away, and moved back on failure.
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
    """Sets the usual permissions of new files, since a temporary folder is private to its user."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)
