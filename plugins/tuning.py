"""Measures which kernel decodes a batch fastest on the GPU at hand, and keeps what it found."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.choice import candidates, estimate
from wavernn_trt.plugins.choice_table import ChoiceTable
from wavernn_trt.plugins.compile import locked
from wavernn_trt.plugins.device_stream import DeviceStream, on_device, scratch
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.kernel_cases import random_operand
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.targets import Device

logger = logging.getLogger(__name__)

STEPS = 128
"""Of the chunks that are timed."""
REPEATS = 5
"""Of each, after one that counts for nothing."""
PRUNED = 6.0
"""What is estimated to take so many times as long as the best is not measured."""
_UNWRITTEN = 0xFFFFFFFF
"""What outputs hold before a chunk: as an integer -1, which is no class, and as a float no number."""


def measure_kernels(
    kernel: SequenceKernel,
    batch: int,
    weights: Sequence[int],
    scales: Sequence[int] = (),
    *,
    window: int,
    steps: int | None = None,
    repeats: int | None = None,
    report: Callable[[Choice, float], None] | None = None,
) -> Mapping[Choice, float]:
    """Times the kernels that can decode a batch on the current device, and lets ``kernel`` take the fastest.

    The chunks read random numbers; what they write is looked at, so that a kernel which computes nothing does not win.
    What is timed is a CUDA graph of a chunk, as lanes replay it. A kernel that fails is noted in the cache, and not
    tried again: whoever calls next measures the others.

    Args:
        kernel: of the model; its cache keeps the result, for every process that uses the cache.
        batch: B.
        weights: device addresses of ``shape.weight_inputs()``.
        scales: in ``fp8``, of each weight's scales.
        window: rows of conditioning that a chunk reads, W.
        steps: of a chunk; `STEPS` unless given.
        repeats: of each kernel; `REPEATS` unless given.
        report: is told each kernel's microseconds a step.

    Returns:
        Microseconds a step by kernel, fastest first.

    Raises:
        KernelError: there is no GPU, a kernel fails on it, or what it wrote is no chunk; says which kernel, and whether
            the process can still use the GPU.
    """
    shape, precision, steps = kernel.shape, kernel.precision, steps or STEPS
    _, device = driver.current_device()
    random = np.random.default_rng(batch)
    sizes: dict[int | str, int] = {"B": batch, "T": steps, "W": window}
    inputs = [random_operand(shape, operand, sizes, random, precision) for operand in shape.chunk_inputs()]
    outputs = [
        np.zeros([int(sizes.get(size, size)) for size in operand.shape], operand.kind)
        for operand in shape.outputs_of_node()
    ]
    table = ChoiceTable(kernel.cache.folder)
    known = table.find(shape, precision, batch, device)
    failed = {choice: time for choice, time in known.items() if math.isinf(time)}
    plans = {choice: plan for choice, plan in candidates(shape, precision, batch, device) if choice not in failed}
    estimates = {choice: estimate(shape, precision, batch, plan, device) for choice, plan in plans.items()}
    least = min(estimates.values(), default=0.0)
    measured: dict[Choice, float] = {}
    room = kernel.workspace_bytes(batch, steps, window)
    with (
        contextlib.closing(DeviceStream()) as stream,
        scratch(room) as workspace,
        on_device([*inputs, *outputs]) as (addresses, fetch),
    ):
        pointers = [*addresses[: len(inputs)], *weights, *addresses[len(inputs) :], *scales]
        for choice in sorted(estimates, key=lambda one: estimates[one]):
            if estimates[choice] > PRUNED * least:
                break
            one = kernel.with_choice(choice)
            try:
                one.prepare(batch)
            except KernelError as error:
                logger.debug("%s is not measured: %s", choice, error)
                continue

            def launch(handle: int, one: SequenceKernel = one) -> None:
                one.launch(batch, steps, window, pointers, workspace, handle)

            try:
                for address, array in zip(addresses[len(inputs) :], outputs, strict=True):
                    driver.fill(address, _UNWRITTEN, array.nbytes, stream.handle)
                stream.seconds(launch)
                fetch(outputs)
                _require_written(shape, *outputs)
                replay = stream.captured(launch)
                stream.seconds(replay)
                times = [stream.seconds(replay) for _ in range(repeats or REPEATS)]
            except KernelError as error:
                way_out = (
                    "This process cannot use the GPU any more: start it again" if driver.is_lost() else "Try again"
                )
                if "OUT_OF_MEMORY" not in str(error):  # which is no fault of the kernel's
                    _keep(table, kernel, batch, device, {**failed, choice: math.inf})
                    way_out += f"; it decodes with another kernel then, as noted in {kernel.cache.folder}"
                raise KernelError(f"{choice} failed when it was timed: {error}. {way_out}") from error
            measured[choice] = 1e6 * median(times) / steps
            if report is not None:
                report(choice, measured[choice])
    ranked = dict(sorted(measured.items(), key=lambda item: item[1]))
    _keep(table, kernel, batch, device, {**ranked, **failed})
    return ranked


def _keep(
    table: ChoiceTable, kernel: SequenceKernel, batch: int, device: Device, measured: Mapping[Choice, float]
) -> None:
    """Tells the kernel, and every process to come where the table can be written."""
    kernel.learn(device, batch, measured)
    try:
        table.keep(kernel.shape, kernel.precision, batch, device, measured)
    except OSError as error:
        logger.warning("what was measured is not kept (%s): it will be measured again", error.strerror)


def _require_written(shape: SequenceShape, samples: NDArray[Any], previous: NDArray[Any], hidden: NDArray[Any]) -> None:
    """Raises a `KernelError` where a chunk left what was there before, or numbers that are none."""
    within = (samples >= 0) & (samples < shape.outputs) if shape.output == "categorical" else np.abs(samples) <= 1
    fed = previous == samples[:, -1] if shape.label_feedback else np.abs(previous) <= 1
    if not within.all() or not fed.all() or not np.isfinite(hidden).all():
        raise KernelError("its chunk has samples or states that cannot be")


@contextlib.contextmanager
def measuring_alone(kernel: SequenceKernel) -> Iterator[None]:
    """Waits for other processes that measure: at once, each would time what the others leave of the GPU."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(kernel.cache.folder / "measuring"))
        except KernelError as error:  # of a folder that cannot be written, in which nothing is kept either
            logger.debug("measuring beside others: %s", error)
        yield


def is_measured(kernel: SequenceKernel, batch: int) -> bool:
    """Whether the table has this batch for the current device.

    Raises:
        KernelError: there is no GPU.
    """
    _, device = driver.current_device()
    measured = ChoiceTable(kernel.cache.folder).find(kernel.shape, kernel.precision, batch, device)
    return any(math.isfinite(time) for time in measured.values())
