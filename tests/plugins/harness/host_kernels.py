"""The kernels' sources built for the host with g++, and run there: tests of them that need no GPU.

``python host_kernels.py LIBRARY`` builds the library.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from kernel_cases import GruCase, SequenceCase
from numpy.typing import NDArray

import wavernn_trt.plugins
from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins.arguments import THREADS
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.gru_cell import gru_arguments, plan_gru
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS, engine_precision
from wavernn_trt.plugins.resident import VARIANTS, lay_out_resident, most_blocks, plan_resident, resident_arguments
from wavernn_trt.plugins.sequence import lay_out_sequence, plan_sequence, sequence_arguments
from wavernn_trt.plugins.stepped import lay_out_stepped, plan_stepped, stepped_launches
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.plugins.targets import DeviceProperties
from wavernn_trt.scripts.gpu.cases import Arrays

Sanitizer = Literal["thread", "address,undefined"]
Part = Literal["sequence", "resident", "stepped"]
PARTS: tuple[Part, ...] = get_args(Part)
"""``sequence`` has the GRU cell too."""
HARNESS = Path(__file__).parent
SOURCES = Path(str(wavernn_trt.plugins.__file__)).parent / "kernels"
_ALIGNMENT = 64
_PATIENCE = 1 << 30
_POISON = getattr(ctypes.CDLL(None), "__asan_poison_memory_region", None)
_NOT_REUSED = 1024
"""Bytes from which on numpy frees an array's memory instead of keeping it for the next array."""


def build_host_kernels(
    library: Path,
    *,
    parts: Sequence[Part] = PARTS,
    lanes: int = 1,
    sanitizer: Sanitizer | None = None,
    sources: Path = SOURCES,
    switches: Sequence[str] = (),
) -> Path:
    """Compiles a library of kernels for this machine, its parts at the same time.

    Args:
        library: what to write.
        parts: which kernels it is to have.
        lanes: threads of a warp, a power of two; with several, the exchanges inside a warp run too.
        sanitizer: what g++ is to build it under; the sanitizer's own library must then be loaded before.
        sources: the folder of the kernels; a host_*.cpp in it takes the place of the one beside this file.
        switches: of the sources, other than the defaults, such as ``WAVERNN_POLLS_IN_FLIGHT=0``.

    Returns:
        ``library``.

    Raises:
        KernelError: g++ is missing, or does not compile them.
    """
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror"]
    flags += ["-Wconversion", "-Wno-unknown-pragmas", f"-DWAVERNN_HOST_LANES={lanes}"]
    flags += [f"-D{switch}" for switch in switches]
    if sanitizer is not None:
        flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g", "-O1"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(parts)) as pool:
        objects = {part: str(Path(folder) / f"{part}.o") for part in parts}
        compilations = []
        for part, name in objects.items():
            own = sources / f"host_{part}.cpp"
            program = own if own.exists() else HARNESS / own.name
            compilations.append([*flags, f"-I{sources}", "-c", str(program), "-o", name])
        for _ in pool.map(_run_compiler, compilations):
            pass
        _run_compiler([*flags, "-shared", *objects.values(), "-o", str(library)])
    return library


def _run_compiler(arguments: Sequence[str]) -> None:
    try:
        done = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise KernelError("g++ is not on PATH; the kernels' host build needs it (Debian: apt install g++)") from None
    if done.returncode:
        raise KernelError(f"g++ {' '.join(arguments)}:\n{done.stderr}")


class HostKernels:
    """A library of `build_host_kernels`."""

    def __init__(self, library: Path) -> None:
        """Loads it."""
        self.path = library
        self._library = ctypes.CDLL(str(library))

    @property
    def lanes(self) -> int:
        """Threads of a warp."""
        return int(self._library.wavernn_lanes())

    def round(self, values: NDArray[np.float32], precision: Precision) -> NDArray[np.float32]:
        """As an operand of that precision has them."""
        rounded = np.empty_like(values)
        self._call("wavernn_round", values.ctypes, rounded.ctypes, values.size, PRECISIONS.index(precision))
        return rounded

    def gru_cell(
        self, case: GruCase, inputs: Arrays | None = None, *, warps: int = 1, misalign: bool = False
    ) -> NDArray[np.float32]:
        """Runs a cell.

        Args:
            case: what to run.
            inputs: other ones than the case's.
            warps: of a block.
            misalign: puts every operand where no vector of 16 bytes begins.
        """
        plan = plan_gru(case.hidden_size, case.precision, case.batch, warps=warps)
        poison = np.full((case.batch, case.hidden_size), np.nan, np.float32)
        operands = [_place(array, misalign) for array in (*(inputs or case.inputs()).values(), poison)]
        arguments = gru_arguments(case.hidden_size, plan, case.batch, [operand.ctypes.data for operand in operands])
        self._launch("wavernn_gru_cell", arguments, case.precision, plan.tile, plan.grid, warps, plan.shared_bytes)
        return operands[-1]

    def run(self, case: SequenceCase, inputs: Mapping[str, NDArray[Any]], choice: Choice, **settings: Any) -> Arrays:
        """Runs a chunk in the chosen kernel, in blocks of two warps; settings are those of the kernel's own method."""
        if choice.kernel == "stepped":
            return self.stepped(case, inputs, **settings)
        settings = {"groups": choice.groups, "warps": 2, **settings}
        if choice.kernel in VARIANTS:
            return self.resident(case, inputs, choice.kernel, **settings)
        return self.sequence(case, inputs, **settings)

    def sequence(
        self,
        case: SequenceCase,
        inputs: Mapping[str, NDArray[Any]],
        *,
        blocks: int = 2,
        groups: int = 1,
        warps: int = 1,
        shared_bytes: int = 1 << 16,
        misalign: bool = False,
        waits: int = _PATIENCE,
        absent: int = 0,
    ) -> Arrays:
        """Runs a chunk.

        Args:
            case: what to run.
            inputs: of the case.
            blocks: of a group.
            groups: groups of blocks.
            warps: of a block.
            shared_bytes: of a block; fewer leave more of the weights in global memory.
            misalign: puts every operand but the weights where no vector of 16 bytes begins.
            waits: how often a block looks for the others before the kernel gives up.
            absent: blocks that are never started, so that the others wait in vain.

        Returns:
            The node's outputs, and all ``logits``.
        """
        device = DeviceProperties("host", 0, max(groups * blocks, groups), shared_bytes)
        precision = engine_precision(case.precision)
        plan = plan_sequence(case.shape, precision, case.batch, device, groups=groups, blocks=blocks, warps=warps)
        outputs, logits, kept = _place_chunk(case, inputs, misalign)
        layout = lay_out_sequence(case.shape, precision, case.batch)
        workspace = _place(np.full(layout.total, 0xFF, np.uint8), False)
        workspace[: layout.counter_bytes] = 0
        arguments = sequence_arguments(
            case.shape,
            precision,
            plan,
            (case.batch, case.steps, case.window),
            [array.ctypes.data for array in kept],
            workspace.ctypes.data,
            waits=waits,
            all_logits=logits.ctypes.data,
        )
        grid = plan.grid - absent
        self._launch("wavernn_sequence", arguments, precision, plan.tile, grid, warps, plan.shared_bytes)
        return {**outputs, "logits": logits}

    def resident(
        self,
        case: SequenceCase,
        inputs: Mapping[str, NDArray[Any]],
        kernel: str,
        *,
        blocks: int = 2,
        groups: int = 1,
        warps: int = 2,
        shared_bytes: int = 1 << 17,
        misalign: bool = False,
        waits: int = _PATIENCE,
        absent: int = 0,
        in_place: bool = False,
    ) -> Arrays:
        """Runs a chunk in a resident kernel.

        Args:
            case: what to run; not in ``fp32``.
            inputs: of the case.
            kernel: of `wavernn_trt.plugins.resident.VARIANTS`.
            blocks: of a group; fewer where there is not so much work.
            groups: groups of blocks.
            warps: of a block.
            shared_bytes: of a block; fewer leave more of the weights in global memory.
            misalign: puts every operand but the weights where no vector of 16 bytes begins.
            waits: how often a thread looks for what has not come before the kernel gives up.
            absent: blocks that are never started, so that the others wait in vain.
            in_place: writes the state to where it is read.

        Returns:
            The node's outputs, and all ``logits``.
        """
        device = DeviceProperties("host", 0, groups * blocks, shared_bytes)
        blocks = min(blocks, most_blocks(case.shape))
        settings = {"groups": groups, "blocks": blocks, "warps": warps}
        plan = plan_resident(case.shape, case.precision, case.batch, device, kernel, **settings)
        outputs, logits, kept = _place_chunk(case, inputs, misalign, in_place)
        layout = lay_out_resident(case.shape, case.batch)
        workspace = _place(np.full(layout.total, 0xFF, np.uint8), False)
        workspace[: layout.cleared] = 0
        arguments = resident_arguments(
            case.shape,
            case.precision,
            plan,
            (case.batch, case.steps, case.window),
            [array.ctypes.data for array in kept],
            workspace.ctypes.data,
            waits=waits,
            all_logits=logits.ctypes.data,
        )
        numbers = (WEIGHT_PRECISIONS.index(case.precision), plan.grid - absent, warps, plan.shared_bytes)
        self._call(f"wavernn_{kernel}", ctypes.byref(arguments), *numbers)
        return {**outputs, "logits": logits}

    def stepped(
        self,
        case: SequenceCase,
        inputs: Mapping[str, NDArray[Any]],
        *,
        streams: int | None = None,
        misalign: bool = False,
        in_place: bool = False,
    ) -> Arrays:
        """Runs a chunk in the stepped kernels, a launch after the other.

        Args:
            case: what to run; not in ``fp32``.
            inputs: of the case.
            streams: of a tile; see `wavernn_trt.plugins.stepped.plan_stepped`.
            misalign: puts every operand but the weights where no vector of 16 bytes begins.
            in_place: writes the state to where it is read.

        Returns:
            The node's outputs, and all ``logits``.
        """
        device = DeviceProperties("host", 0, 1, 1 << 17)
        plan = plan_stepped(case.shape, case.precision, case.batch, device, streams=streams)
        outputs, logits, kept = _place_chunk(case, inputs, misalign, in_place)
        workspace = _place(np.full(lay_out_stepped(case.shape, case.batch).total, 0xFF, np.uint8), False)
        launches = stepped_launches(
            case.shape,
            case.precision,
            plan,
            (case.batch, case.steps, case.window),
            [array.ctypes.data for array in kept],
            workspace.ctypes.data,
            all_logits=logits.ctypes.data,
        )
        precision = WEIGHT_PRECISIONS.index(case.precision)
        for one in launches:
            stage = one.stage
            numbers = (precision, stage.grid, THREADS // 32, stage.shared_bytes)
            self._call(f"wavernn_{stage.kernel}", ctypes.byref(one.arguments), *numbers)
        return {**outputs, "logits": logits}

    def _launch(self, name: str, arguments: ctypes.Structure, precision: Precision, *numbers: int) -> None:
        self._call(name, ctypes.byref(arguments), PRECISIONS.index(precision), *numbers)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise KernelError(f"{name} has no kernel for {arguments[1:]}")


def _place_chunk(
    case: SequenceCase, inputs: Mapping[str, NDArray[Any]], misalign: bool, in_place: bool = False
) -> tuple[Arrays, NDArray[np.float32], list[NDArray[Any]]]:
    """Places the arrays of a launch; weights are always aligned, as TensorRT's tensors and allocations are.

    Returns:
        The node's outputs, logits [B, T, outputs], and all arrays in the order of a launch's pointers.
    """
    operands = case.shape.inputs()
    stored, scales = store_operands(operands, inputs, case.precision)
    placed = {
        operand.name: _place(array, misalign and operand.kind != "weight")
        for operand, array in zip(operands, stored, strict=True)
    }
    outputs = {name: _place(array, misalign) for name, array in case.poisoned_outputs().items()}
    if in_place:
        outputs |= {f"{name}_out": placed[name] for name in ("previous", "hidden")}
    logits = np.full((case.batch, case.steps, case.shape.outputs), np.nan, np.float32)
    return outputs, logits, [*placed.values(), *outputs.values(), *(_place(array, misalign) for array in scales)]


def _place(array: NDArray[Any], misalign: bool) -> NDArray[Any]:
    """A copy that begins at a multiple of 64 bytes, as TensorRT's tensors do at least, or one number after it.

    AddressSanitizer, where it is loaded, reports every access after its end.
    """
    room = np.full(array.nbytes + 2 * _ALIGNMENT + _NOT_REUSED, 0xFF, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT + (array.itemsize if misalign else 0)
    end = start + array.nbytes
    copy: NDArray[Any] = room[start:end].view(array.dtype).reshape(array.shape)
    copy[...] = array
    if _POISON is not None:
        _POISON(ctypes.c_void_p(room.ctypes.data + end), ctypes.c_size_t(room.size - end))
    return copy


if __name__ == "__main__":
    part = Path(sys.argv[1] + ".part")
    build_host_kernels(part).replace(sys.argv[1])
