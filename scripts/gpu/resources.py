"""Registers, shared memory and spills of compiled kernels, from ptxas' output."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from wavernn_trt.plugins.compile import CompiledKernels
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WeightPrecision


@dataclass(frozen=True)
class KernelResources:
    """Resources of one kernel for one target."""

    kernel: str
    """Its name in the cubin."""
    precision: WeightPrecision
    target: int
    """Compute capability, 10 * major + minor."""
    registers: int
    """Of a thread."""
    shared_bytes: int
    """Static shared memory of a block, without the dynamic memory of a launch."""
    stack_bytes: int
    """Of a thread."""
    spill_stores: int
    """Bytes that a thread writes to memory for lack of registers."""
    spill_loads: int
    """Bytes that a thread reads back."""


_ENTRY = re.compile(r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<target>\d+)a?'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+)(?:\+\d+)? bytes smem")


def resource_report(kernels: Iterable[CompiledKernels]) -> list[KernelResources]:
    """Reads the resources of each kernel from its compiler's log.

    Raises:
        KernelError: the log is not of the form that ptxas writes.
    """
    return [one for compiled in kernels for one in _read_log(compiled)]


def _read_log(compiled: CompiledKernels) -> list[KernelResources]:
    # The lines about a kernel stand between its name and the next kernel's.
    found = []
    starts = [*_ENTRY.finditer(compiled.log)]
    ends = [*(start.start() for start in starts[1:]), len(compiled.log)]
    for entry, end in zip(starts, ends, strict=True):
        lines = compiled.log[entry.end() : end]
        stack, used, shared = _STACK.search(lines), _USED.search(lines), _SHARED.search(lines)
        if stack is None or used is None:
            break
        found.append(
            KernelResources(
                kernel=entry["kernel"],
                precision=compiled.precision,
                target=int(entry["target"]),
                registers=int(used[1]),
                shared_bytes=int(shared[1]) if shared else 0,
                stack_bytes=int(stack[1]),
                spill_stores=int(stack[2]),
                spill_loads=int(stack[3]),
            )
        )
    if len(found) != len(starts) or not found:
        raise KernelError(
            f"the log of {compiled.file} does not list its kernels' registers, expected ptxas -v:\n{compiled.log}"
        )
    return sorted(found, key=lambda one: one.kernel)
