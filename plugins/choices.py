"""Selects the kernel that decodes a batch, from a built-in table or from a JSON file of measured rows.

The file::

    {"schema": 1, "rows": [
      {"sm": [90, 90], "precisions": ["fp16", "bf16"], "batch": [1, 8], "kernel": "resident_stamped_8", "groups": 1},
      {"sm": [80, null], "precisions": ["fp16"], "batch": [9, null], "kernel": "stepped", "groups": null}
    ]}

Ranges include both ends. ``null`` as an upper end means no limit; ``null`` as ``groups`` means the smallest number that
the batch needs.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice, KernelFamily
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS, WeightPrecision
from wavernn_trt.plugins.resident import VARIANTS, ResidentFamily
from wavernn_trt.plugins.sequence import SequenceFamily
from wavernn_trt.plugins.stepped import SteppedFamily
from wavernn_trt.plugins.targets import DeviceProperties

FAMILIES: tuple[KernelFamily, ...] = (SequenceFamily(), ResidentFamily(), SteppedFamily())
KERNELS: tuple[str, ...] = tuple(name for family in FAMILIES for name in family.kernels)
"""The values of `Choice.kernel`."""
FILE = "choices.json"
"""Name of the file of measured rows, in the folder of compiled kernels."""
ANY = sys.maxsize
"""Upper end of a range without a limit."""
_SCHEMA = 1
_FIELDS = ("sm", "precisions", "batch", "kernel", "groups")


@dataclass(frozen=True)
class Row:
    """A kernel for a range of GPUs and batches."""

    sm: tuple[int, int]
    """First and last compute capability, 10 * major + minor."""
    precisions: tuple[WeightPrecision, ...]
    batch: tuple[int, int]
    """Smallest and largest batch."""
    kernel: str
    """One of `KERNELS`."""
    groups: int | None = None
    """Groups of blocks; None: the smallest number that the batch needs."""

    def applies(self, sm: int, precision: WeightPrecision, batch: int) -> bool:
        """Whether the row is for this batch on this GPU."""
        return (
            self.sm[0] <= sm <= self.sm[1] and self.batch[0] <= batch <= self.batch[1] and precision in self.precisions
        )


_LOW: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8")

TABLE: tuple[Row, ...] = (
    Row((80, ANY), _LOW, (1, 8), "resident_stamped_8"),
    Row((80, ANY), _LOW, (9, 32), "resident_stamped_16"),
    # The shared memory of sm_86 and sm_89 holds one or two copies of a model's weights, that of sm_80 and sm_90 more.
    Row((80, 80), _LOW, (33, 96), "resident_stamped_16"),
    Row((90, ANY), _LOW, (33, 96), "resident_stamped_16"),
    Row((80, ANY), _LOW, (1, ANY), "stepped"),
    Row((0, 79), ("fp16", "bf16"), (1, ANY), "sequence"),
    Row((0, ANY), ("fp32",), (1, ANY), "sequence"),
)
"""The first row that applies, and whose kernel the device can run, is used. The limits are estimated from instruction
counts and exchanges between blocks; none is measured on a GPU."""


def family_of(kernel: str) -> KernelFamily:
    """Returns the family of a kernel.

    Raises:
        ValueError: unknown kernel.
    """
    for family in FAMILIES:
        if kernel in family.kernels:
            return family
    raise ValueError(f"kernel: found {kernel!r}, expected one of {', '.join(KERNELS)}")


def choices(
    precision: WeightPrecision, batch: int, device: DeviceProperties, measured: Sequence[Row] = ()
) -> Iterator[tuple[Choice, bool]]:
    """Yields the kernels of the rows that apply, in the order to try them, and whether each was measured.

    Args:
        precision: precision of the weights.
        batch: number of streams.
        device: the GPU.
        measured: rows that are tried before those of `TABLE`.
    """
    for rows, known in ((measured, True), (TABLE, False)):
        for row in rows:
            if row.applies(device.sm, precision, batch):
                fewest = -(-batch // VARIANTS[row.kernel].streams) if row.kernel in VARIANTS else 1
                yield Choice(row.kernel, row.groups or fewest), known


def plan_choice(
    shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties, choice: Choice
) -> Any:
    """Plans a launch of a kernel; returns the plan of its family.

    Raises:
        KernelError: the kernel does not run on the device or with this batch; gives the reason.
    """
    family = family_of(choice.kernel)
    if (reason := family.refusal(precision, device)) is not None:
        raise KernelError(f"{choice.kernel} does not run: {reason}")
    try:
        return family.plan(shape, precision, batch, device, choice)
    except ValueError as error:  # more groups than the device or the batch allows
        raise KernelError(f"{choice}: {error}") from error


def read_rows(path: Path) -> tuple[Row, ...]:
    """Reads a file of measured rows.

    Raises:
        KernelError: the file cannot be read or has another format; names what was found and the way out.
    """
    way_out = "measure again, or delete the file: a built-in table is used without it"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KernelError(f"{path} cannot be read as JSON ({error}); {way_out}") from error
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA or not isinstance(content.get("rows"), list):
        raise KernelError(f"{path}: expected an object with schema {_SCHEMA} and a list of rows; {way_out}")
    try:
        return tuple(_row(value) for value in content["rows"])
    except ValueError as error:
        raise KernelError(f"{path}: {error}; {way_out}") from error


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a file of measured rows; replaces an existing file.

    Raises:
        OSError: the folder cannot be written.
    """
    content = {"schema": _SCHEMA, "rows": [_json(row) for row in rows]}
    write_atomic(path, json.dumps(content, indent=1).encode())


def _json(row: Row) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    for name in ("sm", "batch"):
        first, last = values[name]
        values[name] = [first, None if last == ANY else last]
    return values


def _row(value: Any) -> Row:
    if not isinstance(value, dict) or sorted(value) != sorted(_FIELDS):
        raise ValueError(f"found the row {value!r}, expected an object with {', '.join(_FIELDS)}")
    kernel, groups, precisions = value["kernel"], value["groups"], value["precisions"]
    if kernel not in KERNELS:
        raise ValueError(f"kernel: found {kernel!r}, expected one of {', '.join(KERNELS)}")
    if groups is not None and (type(groups) is not int or groups < 1):
        raise ValueError(f"groups: found {groups!r}, expected a positive integer or null")
    if not isinstance(precisions, list) or not set(map(str, precisions)) <= set(WEIGHT_PRECISIONS):
        raise ValueError(f"precisions: found {precisions!r}, expected a list of {', '.join(WEIGHT_PRECISIONS)}")
    return Row(_range("sm", value["sm"]), tuple(precisions), _range("batch", value["batch"]), kernel, groups)


def _range(name: str, value: Any) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and type(value[0]) is int:
        last = ANY if value[1] is None else value[1]
        if type(last) is int and 0 <= value[0] <= last:
            return value[0], last
    raise ValueError(f"{name}: found {value!r}, expected [first, last] or [first, null]")
