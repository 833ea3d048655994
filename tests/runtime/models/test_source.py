"""Models are found by name and version in one folder, and never outside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_voice import SMALL_VOICE

from wavernn_trt.export.model_directory import CONFIG, ModelDirectoryError, write_manifest
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.models.source import ModelFolders, ModelSource, fingerprint, natural_order


def put(folder: Path) -> Path:
    """Writes a folder with a manifest, which is enough to be found."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text("{}")
    write_manifest(folder)
    return folder


def test_the_newest_version_is_the_last_in_natural_order(tmp_path: Path) -> None:
    for version in ("v9", "v10", "v2"):
        put(tmp_path / "alto" / version)
    models = ModelFolders(tmp_path)
    assert models("alto") == ModelSource("alto", "v10", tmp_path / "alto" / "v10")
    assert models("alto", "v2") == ModelSource("alto", "v2", tmp_path / "alto" / "v2")


@pytest.mark.parametrize(
    "names",
    [["1", "2", "10"], ["1.9", "1.10", "2"], ["a", "a1", "b"], ["2024-9", "2024-10"], ["01", "1"], ["7", "v7", "vv"]],
)
def test_numbers_in_versions_are_compared_as_numbers(names: list[str]) -> None:
    assert sorted(reversed(names), key=natural_order) == names


def test_a_folder_that_is_a_model_directory_is_a_model_without_versions(tmp_path: Path) -> None:
    put(tmp_path / "alto")
    models = ModelFolders(tmp_path)
    assert models("alto") == ModelSource("alto", None, tmp_path / "alto")
    with pytest.raises(VocoderError, match=r"'1', but .*alto has no versions; leave it out"):
        models("alto", "1")


def test_an_unfinished_export_is_skipped(tmp_path: Path) -> None:
    put(tmp_path / "alto" / "1")
    put(tmp_path / "alto" / ".2.building")
    (tmp_path / "alto" / "3").mkdir()
    assert ModelFolders(tmp_path)("alto").version == "1"


def test_the_error_of_an_unknown_name_or_version_lists_the_known_ones(tmp_path: Path) -> None:
    put(tmp_path / "alto" / "1")
    (tmp_path / "empty").mkdir()
    models = ModelFolders(tmp_path)
    with pytest.raises(VocoderError, match="found 'bass', expected one of alto, empty"):
        models("bass")
    with pytest.raises(VocoderError, match=r"found 'xxx.*, expected one of alto, empty"):
        models("x" * 1000)
    with pytest.raises(VocoderError, match="found '2', expected one of 1"):
        models("alto", "2")
    with pytest.raises(VocoderError, match=r"empty holds no model directory; make one with: wavernn-trt export"):
        models("empty")
    with pytest.raises(VocoderError, match="is not a folder"):
        ModelFolders(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../outside", "/etc", "alto/../../outside", ".hidden", "a\0b", "..\\x"]
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    put(tmp_path / "root" / "alto" / "1")
    put(tmp_path / "outside")
    put(tmp_path / "root" / ".hidden")
    models = ModelFolders(tmp_path / "root")
    with pytest.raises(VocoderError, match="expected the name of a folder in"):
        models(name)
    with pytest.raises(VocoderError, match="expected the name of a folder in"):
        models("alto", name)


def test_another_export_has_another_fingerprint(tmp_path: Path) -> None:
    model = tmp_path / "alto"
    shutil.copytree(SMALL_VOICE, model)
    before = fingerprint(model)
    assert before == fingerprint(SMALL_VOICE)
    config = json.loads((model / CONFIG).read_text())
    (model / CONFIG).write_text(json.dumps({**config, "source": {"checkpoint": "another.pt"}}))
    assert fingerprint(model) == before
    write_manifest(model)
    assert fingerprint(model) != before
    with pytest.raises(ModelDirectoryError, match=r"manifest\.json: No such file or directory, so .* is not a model"):
        fingerprint(tmp_path)
