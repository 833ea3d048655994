"""The calibration table: written and read, refused when damaged or of another model, turned into a quantisation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_voice import SMALL_VOICE

from wavernn_trt.calibration.errors import CalibrationError
from wavernn_trt.calibration.table import (
    DEFAULT_METHODS,
    METHODS,
    ActivationRange,
    CalibrationInput,
    CalibrationTable,
    model_hash,
    read_table,
)
from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory
from wavernn_trt.export.quantization import LARGEST, Product


@pytest.fixture(scope="module")
def directory() -> ModelDirectory:
    return open_model_directory(SMALL_VOICE)


@pytest.fixture
def table(directory: ModelDirectory) -> CalibrationTable:
    def bounds(largest: float) -> dict[Any, dict[Any, float]]:
        return {grid: {method: largest - i / 8 for i, method in enumerate(METHODS)} for grid in LARGEST}

    ranges = {"recurrent_0": 1.0, "fc_0": 1.0, "output": 31.5}
    return CalibrationTable(
        model_hash(directory),
        "model.pt",
        True,
        None,
        (CalibrationInput("ä.wav", "a" * 64, 1000), CalibrationInput("b.wav", "b" * 64, 2000)),
        {name: ActivationRange(5, largest, bounds(largest)) for name, largest in ranges.items()},
    )


def test_a_table_is_read_as_it_was_written(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.json"
    table.write(path)
    found = read_table(path)
    assert found == table
    assert found.sha256 == table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(path.parent.iterdir()) == [path]
    first = path.read_bytes()
    found.write(path)
    assert path.read_bytes() == first


def test_a_failed_write_leaves_the_former_table(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.write(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        dataclasses.replace(table, source=object()).write(path)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"table\.json: not a calibration table .*wavernn-trt calibrate"):
        read_table(path)


def test_another_schema_version_is_refused(table: CalibrationTable, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"schema version 2, this wavernn-trt reads 1"):
        read_table(edited(table, tmp_path, lambda values: values.update(schema_version=2)))


Edit = Callable[[dict[str, Any]], Any]
DAMAGE: dict[str, Edit] = {
    "no ranges": lambda values: values.pop("ranges"),
    "no inputs": lambda values: values.pop("inputs"),
    "inputs of another kind": lambda values: values.update(inputs=[3]),
    "another field": lambda values: values.update(more=1),
    "no product's values": lambda values: values["ranges"].update(output=None),
    "a grid is missing": lambda values: values["ranges"]["output"]["bounds"].pop("fp8"),
    "a method is missing": lambda values: values["ranges"]["output"]["bounds"]["int8"].pop("mse"),
    "a bound of zero": lambda values: values["ranges"]["output"]["bounds"]["int8"].update(mse=0.0),
    "a negative bound": lambda values: values["ranges"]["output"]["bounds"]["int8"].update(mse=-1.0),
    "an infinite bound": lambda values: values["ranges"]["output"]["bounds"]["fp8"].update(mse=float("inf")),
    "a bound that is no number": lambda values: values["ranges"]["output"]["bounds"]["fp8"].update(mse=float("nan")),
    "a bound of text": lambda values: values["ranges"]["fc_0"]["bounds"]["fp8"].update(minmax="1.0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_refused(damage: str, table: CalibrationTable, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"table\.json: damaged .*; make it again with: wavernn-trt calibrate"):
        read_table(edited(table, tmp_path, DAMAGE[damage]))


def edited(table: CalibrationTable, folder: Path, edit: Edit) -> Path:
    path = folder / "table.json"
    table.write(path)
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values))
    return path


def test_a_table_of_another_model_or_other_audio_settings_is_refused(
    table: CalibrationTable, directory: ModelDirectory
) -> None:
    table.check(directory)
    others = dataclasses.replace(table, model="0" * 64)
    with pytest.raises(CalibrationError, match=r"of another model \(model\.pt, 000000000000…\) than .*calibrate"):
        others.check(directory)
    fewer = {name: one for name, one in table.ranges.items() if name != "fc_0"}
    with pytest.raises(CalibrationError, match="of another model"):
        dataclasses.replace(table, ranges=fewer).check(directory)
    for change in ({"fmin": 1.0}, {"delay": 1}):
        other = dataclasses.replace(directory, audio=dataclasses.replace(directory.audio, **change))
        with pytest.raises(CalibrationError, match="of another model"):
            table.check(other)


def test_a_method_chooses_the_bounds(table: CalibrationTable) -> None:
    for place, method in enumerate(METHODS):
        products = table.quantization("int8", method).products
        assert products["output"] == Product("int8", 31.5 - place / 8)
        assert set(products) == set(table.ranges)
    assert table.quantization("int8").table == table.sha256


def test_the_default_method_is_the_grids_own(table: CalibrationTable) -> None:
    assert table.quantization("int8") == table.quantization("int8", "percentile")
    assert table.quantization("fp8") == table.quantization("fp8", "mse")
    assert set(DEFAULT_METHODS) == set(LARGEST)


def test_kept_products_are_left_out(table: CalibrationTable) -> None:
    assert list(table.quantization("fp8", kept=["fc_0"]).products) == ["recurrent_0", "output"]
    with pytest.raises(CalibrationError, match=r"keep: found 'fc2', expected some of recurrent_0, fc_0, output"):
        table.quantization("fp8", kept=["fc2"])
