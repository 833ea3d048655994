"""Quantised products in ``config.json``: read back as they were written, and refused where they are invalid."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_voice import SMALL_VOICE

from wavernn_trt.export.config import ConfigError
from wavernn_trt.export.model_directory import (
    CONFIG,
    ModelDirectory,
    ModelDirectoryError,
    open_model_directory,
    write_config,
    write_manifest,
)
from wavernn_trt.export.quantization import (
    GRIDS,
    LARGEST,
    Product,
    Quantization,
    product_names,
    product_sizes,
)

PRODUCTS = {
    "recurrent_0": Product("int8", 1.0),
    "fc_0": Product("fp8", 0.1),  # a number that has no exact binary form
    "output": Product("int8", weights_only=True),
}


@pytest.fixture(scope="module")
def voice() -> ModelDirectory:
    return open_model_directory(SMALL_VOICE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory whose configuration each test replaces."""
    return Path(shutil.copytree(SMALL_VOICE, tmp_path_factory.mktemp("copy") / "voice"))


def rewrite_config(path: Path, quantization: Any) -> None:
    values = json.loads((path / CONFIG).read_text())
    values["quantization"] = quantization
    (path / CONFIG).write_text(json.dumps(values))
    write_manifest(path)


def test_quantization_is_read_back_as_it_was_written(copy: Path, voice: ModelDirectory) -> None:
    written = Quantization(PRODUCTS, "ab" * 32)
    write_config(copy, voice.model, voice.audio, voice.decoder, voice.source, written)
    write_manifest(copy)
    assert open_model_directory(copy).quantization == written


def test_a_plain_configuration_has_no_key_of_quantization(tmp_path: Path, voice: ModelDirectory) -> None:
    write_config(tmp_path, voice.model, voice.audio, voice.decoder, voice.source)
    written, shipped = (json.loads(file.read_bytes()) for file in (tmp_path / CONFIG, voice.file(CONFIG)))
    assert written.keys() == shipped.keys() - {"cpu_precision"}
    assert shipped["audio"].items() <= written["audio"].items()
    assert voice.quantization is None


def test_an_explicit_null_is_no_quantisation(copy: Path) -> None:
    rewrite_config(copy, None)
    assert open_model_directory(copy).quantization is None


def test_exporting_a_quantised_directory_gives_float32_and_a_note(
    copy: Path, voice: ModelDirectory, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="weights are read into PyTorch")
    from wavernn_trt.export import export, read_checkpoint

    assert read_checkpoint(voice.path).quantization is None
    rewrite_config(copy, dataclasses.asdict(Quantization(PRODUCTS)))
    checkpoint = read_checkpoint(copy)
    assert checkpoint.quantization == Quantization(PRODUCTS)
    assert checkpoint.assumed == ()  # the reference rounds it
    result = export(checkpoint, tmp_path / "again", steps=2)
    assert result.directory.quantization is None
    (note,) = result.notes
    assert note.startswith("every product in float32: the directory is quantised")
    assert note.endswith("give the result to wavernn-trt quantize")


def product(**changes: Any) -> dict[str, Any]:
    return {"products": {"fc_0": {"grid": "int8", "bound": 1.0, "weights_only": False, **changes}}, "table": None}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"quantization: found \[\], expected an object"),
        ({"table": None}, "quantization: the field 'products' is missing"),
        ({"products": {}, "table": 7}, r"quantization\.table: found 7, expected a text or null"),
        (
            product(grid="int4"),
            r"quantization\.products\['fc_0'\]\.grid: found 'int4', expected one of fp16, bf16, int8, fp8",
        ),
        (product(bound=None), r"quantization\.bound.*a positive number"),
        (product(bound=0.0), r"quantization\.bound.*a positive number"),
        (product(bound=float("nan")), r"quantization\.bound.*a positive number"),
        (product(bound=float("inf")), r"quantization\.bound.*a positive number"),
        (product(bound="1.0"), r".*bound: found '1\.0', expected a number or null"),
        (product(grid="fp16"), r"quantization\.bound.*none: nothing is scaled"),
        (product(weights_only=True), r"quantization\.bound.*none: nothing is scaled"),
        (product(weights_only="no", bound=None), r".*weights_only: found 'no', expected true or false"),
        (product(scale=3), r"quantization\.products\['fc_0'\]: unknown field 'scale'; the fields are grid, bound"),
        ({"products": {"input_1": {"grid": "fp16"}}, "table": None}, r"quantization\.products.*input_1.*recurrent_0"),
    ],
)
def test_damaged_values_are_refused_by_name(copy: Path, values: Any, message: str) -> None:
    rewrite_config(copy, values)
    with pytest.raises(ModelDirectoryError, match=rf"config\.json: {message}"):
        open_model_directory(copy)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_has_a_bound_where_it_is_scaled(grid: Any) -> None:
    if grid in LARGEST:
        assert Product(grid, 2.0).scale == 2.0 / LARGEST[grid]
        with pytest.raises(ConfigError, match="bound"):
            Product(grid)
    else:
        assert Product(grid).bound is None
        with pytest.raises(ConfigError, match="bound"):
            Product(grid, 2.0)
    assert Product(grid, weights_only=True).bound is None


@pytest.mark.parametrize("grid", LARGEST)
def test_a_bound_has_a_scale_that_float32_holds(grid: Any) -> None:
    smallest = float(np.finfo(np.float32).tiny) * LARGEST[grid]
    assert np.float32(Product(grid, smallest).scale) == np.finfo(np.float32).tiny
    for bound in (1e-44, smallest * 0.99, 1e42):
        with pytest.raises(ConfigError, match=r"a positive number, whose scale is a normal float32"):
            Product(grid, bound)


def test_products_are_named_in_the_order_of_a_step(voice: ModelDirectory) -> None:
    assert product_names(voice.model) == ("recurrent_0", "fc_0", "output")
    assert list(product_sizes(voice.model).values()) == [3 * 48 * 48, 48 * 64, 64 * 256]
    two = dataclasses.replace(voice.model, family="fatchord", input_sizes=(64, 64), fc_sizes=(192, 100))
    assert list(product_sizes(two)) == list(product_names(two))
    assert sum(product_sizes(two).values()) == two.multiply_adds


def test_products_can_be_left_out_and_names_copied() -> None:
    products = dict(PRODUCTS)
    quantization = Quantization(products, "0")
    products.clear()
    assert list(quantization.without(["fc_0", "unknown"]).products) == ["recurrent_0", "output"]
    assert quantization.without(["fc_0"]).table == "0"
    assert [str(one) for one in quantization.products.values()] == ["int8", "fp8", "int8 weights"]
