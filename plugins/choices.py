"""All kernels that decode chunks, and which of them decodes a batch: a small table, or a file of measured rows.

A file is JSON::

    {"schema": 1, "rows": [
      {"sm": [90, 90], "precisions": ["fp16", "bf16"], "batch": [1, 8], "kernel": "resident_stamped_8", "groups": 1},
      {"sm": [80, null], "precisions": ["fp16"], "batch": [9, null], "kernel": "stepped", "groups": null}
    ]}

Ranges include both ends; ``null`` as an upper end means any, as ``groups`` as few as take the batch.
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
from wavernn_trt.plugins.resident import VARIANTS, ResidentFamily, ResidentPlan
from wavernn_trt.plugins.sequence import SequenceFamily, SequencePlan
from wavernn_trt.plugins.stepped import SteppedFamily, SteppedPlan
from wavernn_trt.plugins.targets import DeviceProperties

AnyPlan = SequencePlan | ResidentPlan | SteppedPlan
FAMILIES: tuple[KernelFamily, ...] = (SequenceFamily(), ResidentFamily(), SteppedFamily())
"""All families of kernels that decode chunks."""
KERNELS: tuple[str, ...] = tuple(name for family in FAMILIES for name in family.kernels)
"""The names that a `Choice` may have."""
FILE = "choices.json"
"""Name of the file in the folder of compiled kernels."""
ANY = sys.maxsize
"""An upper end without a bound."""
_SCHEMA = 1
_FIELDS = ("sm", "precisions", "batch", "kernel", "groups")


@dataclass(frozen=True)
class Row:
    """A kernel for a range of GPUs and batches."""

    sm: tuple[int, int]
    """The first and last compute capability, 10 * major + minor."""
    precisions: tuple[WeightPrecision, ...]
    batch: tuple[int, int]
    """The smallest and largest batch."""
    kernel: str
    """Of `KERNELS`."""
    groups: int | None = None
    """Groups of blocks; as few as take the batch unless given."""

    def applies(self, sm: int, precision: WeightPrecision, batch: int) -> bool:
        """Whether the row covers a batch on a GPU."""
        return (
            self.sm[0] <= sm <= self.sm[1] and self.batch[0] <= batch <= self.batch[1] and precision in self.precisions
        )


_LOW: tuple[WeightPrecision, ...] = ("fp16", "bf16", "fp8")

TABLE: tuple[Row, ...] = (
    Row((80, ANY), _LOW, (1, 8), "resident_stamped_8"),
    Row((80, ANY), _LOW, (9, 32), "resident_stamped_16"),
    # GPUs of 8.6 and 8.9 have the shared memory for one or two copies of a model's weights, the others for more.
    Row((80, 80), _LOW, (33, 96), "resident_stamped_16"),
    Row((90, ANY), _LOW, (33, 96), "resident_stamped_16"),
    Row((80, ANY), _LOW, (1, ANY), "stepped"),
    Row((0, 79), ("fp16", "bf16"), (1, ANY), "sequence"),
    Row((0, ANY), ("fp32",), (1, ANY), "sequence"),
)
"""The first row that applies, and that the device can run, decodes a batch. Bounds are counted from the kernels'
instructions and exchanges; none was measured on a GPU."""


def family_of(kernel: str) -> KernelFamily:
    """The family that has a kernel.

    Raises:
        ValueError: none has.
    """
    for family in FAMILIES:
        if kernel in family.kernels:
            return family
    raise ValueError(f"kernel: found {kernel!r}, expected one of {', '.join(KERNELS)}")


def choices(
    precision: WeightPrecision, batch: int, device: DeviceProperties, measured: Sequence[Row] = ()
) -> Iterator[tuple[Choice, bool]]:
    """The kernels of the rows that apply, in the order to try them, and whether each was measured.

    Args:
        precision: of the weights.
        batch: streams.
        device: what they run on.
        measured: rows that come before those of `TABLE`.
    """
    for rows, known in ((measured, True), (TABLE, False)):
        for row in rows:
            if row.applies(device.sm, precision, batch):
                yield Choice(row.kernel, row.groups or fewest_groups(row.kernel, batch)), known


def fewest_groups(kernel: str, batch: int) -> int:
    """Groups of blocks that a kernel needs for a batch."""
    return -(-batch // VARIANTS[kernel].streams) if kernel in VARIANTS else 1


def plan_choice(
    shape: SequenceShape, precision: WeightPrecision, batch: int, device: DeviceProperties, choice: Choice
) -> AnyPlan:
    """Plans a launch of a kernel.

    Raises:
        KernelError: the kernel does not run on the device, or not with this batch; says why.
    """
    family = family_of(choice.kernel)
    if (reason := family.refusal(precision, device)) is not None:
        raise KernelError(f"{choice.kernel} does not run: {reason}")
    try:
        plan: AnyPlan = family.plan(shape, precision, batch, device, choice)
    except ValueError as error:  # groups that the device or the batch does not have
        raise KernelError(f"{choice}: {error}") from error
    return plan


def read_rows(path: Path) -> tuple[Row, ...]:
    """Reads a file of rows.

    Raises:
        KernelError: the file cannot be read or is none of these; says what was found and what to do.
    """
    way_out = "measure again, or delete the file: a built-in table is used without it"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KernelError(f"{path} cannot be read as JSON ({error}); {way_out}") from error
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA or not isinstance(content.get("rows"), list):
        raise KernelError(f"{path}: expected an object with schema {_SCHEMA} and a list of rows; {way_out}")
    try:
        return tuple(_row(one) for one in content["rows"])
    except ValueError as error:
        raise KernelError(f"{path}: {error}; {way_out}") from error


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a file of rows, in place of the one before.

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
