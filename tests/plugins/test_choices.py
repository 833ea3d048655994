"""Choice of the kernel of a batch: the built-in table covers all batches, and measured rows come first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kernel_cases import H100, UNIVOC

from wavernn_trt.plugins.choices import ANY, TABLE, Row, choices, plan_choice, read_rows, write_rows
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS, WeightPrecision
from wavernn_trt.plugins.targets import SHARED_MEMORY, DeviceProperties

ROW = {"sm": [90, 90], "precisions": ["fp16"], "batch": [1, 8], "kernel": "stepped", "groups": None}


def kernels(sm: int, precision: WeightPrecision, batch: int, measured: tuple[Row, ...] = ()) -> list[str]:
    return [choice.kernel for choice, _ in choices(precision, batch, DeviceProperties.of("GPU", sm, 132), measured)]


@pytest.mark.parametrize("precision", WEIGHT_PRECISIONS)
@pytest.mark.parametrize("sm", SHARED_MEMORY)
def test_every_batch_has_a_kernel_that_has_a_plan(sm: int, precision: WeightPrecision) -> None:
    """Except fp8, which needs compute capability 8.0."""
    gpu = DeviceProperties.of("GPU", sm, 40)
    for batch in (1, 8, 9, 16, 17, 32, 33, 64, 96, 97, 256, 4096):
        found = [choice for choice, _ in choices(precision, batch, gpu)]
        assert bool(found) == (precision != "fp8" or sm >= 80)
        if found:
            plan_choice(UNIVOC, precision, batch, gpu, found[-1])


def test_the_general_kernel_is_for_float32_and_old_gpus_only() -> None:
    for sm in SHARED_MEMORY:
        for precision in WEIGHT_PRECISIONS:
            general = "sequence" in kernels(sm, precision, 1)
            assert general == (precision == "fp32" or (sm < 80 and precision != "fp8"))


def test_few_streams_stay_on_chip_and_many_are_stepped() -> None:
    assert [kernels(90, "fp16", batch)[0] for batch in (1, 8, 9, 96, 97, 4096)] == [
        *["resident_stamped_8"] * 2, *["resident_stamped_16"] * 2, *["stepped"] * 2,
    ]  # fmt: skip
    assert [kernels(89, "fp8", batch)[0] for batch in (32, 33)] == ["resident_stamped_16", "stepped"]


def test_a_kernel_has_the_fewest_groups_that_take_the_batch() -> None:
    found = [next(iter(choices("fp16", batch, H100)))[0].groups for batch in (8, 9, 17, 96)]
    assert found == [1, 1, 2, 6]


def test_measured_rows_come_first_where_they_apply() -> None:
    rows = (Row((90, 90), ("fp16",), (4, 8), "stepped"), Row((90, 90), ("fp16",), (8, ANY), "sequence", 2))
    assert kernels(90, "fp16", 8, rows)[:3] == ["stepped", "sequence", "resident_stamped_8"]
    assert kernels(90, "fp16", 3, rows) == kernels(90, "fp16", 3)
    assert kernels(89, "fp16", 8, rows) == kernels(89, "fp16", 8)
    assert kernels(90, "bf16", 8, rows) == kernels(90, "bf16", 8)
    assert (Choice("sequence", 2), True) in choices("fp16", 8, H100, rows)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "choices.json"
    write_rows(path, TABLE)
    write_rows(path, TABLE)
    assert read_rows(path) == TABLE
    assert [file.name for file in path.parent.iterdir()] == ["choices.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object with schema 1 and a list of rows"),
        ({"schema": 2, "rows": []}, "expected an object with schema 1"),
        (
            {"schema": 1, "rows": [{**ROW, "kernel": "resident_plain_32"}]},
            "kernel: found 'resident_plain_32'",
        ),
        ({"schema": 1, "rows": [{**ROW, "groups": 0}]}, "groups: found 0, expected a positive integer or null"),
        ({"schema": 1, "rows": [{**ROW, "batch": [8, 1]}]}, r"batch: found \[8, 1\], expected \[first, last\]"),
        ({"schema": 1, "rows": [{**ROW, "sm": 90}]}, "sm: found 90, expected"),
        ({"schema": 1, "rows": [{**ROW, "precisions": ["fp4"]}]}, r"precisions: found \['fp4'\], expected a list of"),
        ({"schema": 1, "rows": [{"kernel": "stepped"}]}, "expected an object with sm, precisions, batch"),
    ],
)
def test_an_invalid_file_is_refused_with_the_way_out(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "choices.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(KernelError, match=rf"choices\.json.*{message}.*; measure again, or delete the file"):
        read_rows(path)


def test_the_error_of_a_choice_that_cannot_run_has_the_reason() -> None:
    with pytest.raises(KernelError, match=r"stepped does not run: it needs compute capability 8\.0, and T4 has 7.5"):
        plan_choice(UNIVOC, "fp16", 1, DeviceProperties.of("T4", 75, 40), Choice("stepped"))
    with pytest.raises(KernelError, match="resident_stamped_8, 200 groups of blocks: found batch 1, 200 groups"):
        plan_choice(UNIVOC, "fp16", 1, H100, Choice("resident_stamped_8", 200))
