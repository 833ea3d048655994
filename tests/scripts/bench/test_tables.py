"""The README's table of speeds is made from the published results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wavernn_trt.scripts.bench import tables
from wavernn_trt.scripts.bench.tables import BEGIN, END, lay_out, main, read_results

CLONE = Path(__file__).resolve().parents[3]
RESULTS = CLONE / "scripts" / "bench" / "results"
"""Published, not installed."""
PUBLISHED = ("--results", str(RESULTS))


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nbehind\n")
    return file


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A copy of the published results that a test may change."""
    folder = tmp_path / "results"
    shutil.copytree(RESULTS, folder)
    return folder


def change(folder: Path, **values: Any) -> None:
    """Changes values in the report of the shipped voice, which is the first."""
    file = folder / "speed-heart-lj.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_the_readme_has_the_table_of_the_published_results(capsys: Any) -> None:
    assert main([*PUBLISHED, "--readme", str(CLONE / "README.md"), "--check"]) == 0, capsys.readouterr().err


def test_published_results_have_a_date_a_machine_and_versions() -> None:
    for report in read_results(RESULTS):
        assert report["date"].endswith("+00:00")
        assert report["machine"]["cpu"]
        assert {"python", "onnxruntime"} <= set(report["versions"])
        assert "path" not in report["model"]
        assert "/tmp" not in json.dumps(report)


def test_only_the_text_between_the_markers_is_replaced(readme: Path) -> None:
    assert main([*PUBLISHED, "--readme", str(readme), "--check"]) == 1
    assert "\nold\n" in readme.read_text()
    assert main([*PUBLISHED, "--readme", str(readme)]) == 0
    written = readme.read_text()
    assert written.startswith(f"before\n{BEGIN}\nMeasured on ")
    assert written.endswith(f"|\n{END}\nbehind\n")
    assert "\nold\n" not in written
    assert main([*PUBLISHED, "--readme", str(readme), "--check"]) == 0


def test_the_fewest_and_the_most_streams_of_every_backend_have_a_row_with_its_figures() -> None:
    reports = read_results(RESULTS)
    text = "\n".join(lay_out(reports))
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    measured = [
        result
        for report in reports
        for result in report["results"]
        if result["batch"] in (1, max(other["batch"] for other in report["results"]))
    ]
    assert len(rows) == len(measured)
    for row, result in zip(rows, measured, strict=True):
        assert f"| {result['batch']} | {result['samples_per_second']:,.0f} (" in row
        if result["subject"] != "onnxruntime":
            assert f"| {result['times']['onnxruntime']:.1f} x |" in row
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 118


def test_a_gpu_is_not_compared_with_peers_on_the_cpu(results: Path) -> None:
    (report, *_) = read_results(results)
    for result in report["results"]:
        result["place"] = "gpu" if result["subject"] == "onnxruntime" else "cpu"
    rows = [line for line in lay_out([report]) if "| onnxruntime" in line]
    assert rows
    assert not any(" x |" in row for row in rows)


def test_the_caption_has_the_command_of_the_measurement(results: Path) -> None:
    (report, *_) = read_results(results)
    backends = ",".join(report["loads"])
    assert f"--backend {backends} --threads {report['threads']} " in " ".join(lay_out([report]))


def test_the_caption_has_the_load_of_other_processes(results: Path) -> None:
    for report in read_results(results):
        share = report["others_share"]
        assert share is None or f"{round(100 * share)}" in "\n".join(lay_out([report]))
    change(results, others_share=0.01)
    assert "took 1 % of all cores meanwhile." in "\n".join(lay_out(read_results(results)[:1])).replace("\n", " ")
    change(results, others_share=0.5)
    assert "50 % of all cores meanwhile: a quiet machine" in " ".join(lay_out(read_results(results)[:1]))
    change(results, others_share=None)
    assert "What else ran there is not known." in " ".join(lay_out(read_results(results)[:1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: change(folder, date=None), "expected a report of --scenario speed that has a date"),
        (lambda folder: change(folder, schema=99), "found a report of schema 99"),
        (lambda folder: change(folder, results=[{"subject": "onnxruntime"}]), "found no usable 'batch'"),
        (lambda folder: [file.unlink() for file in folder.glob(tables.PATTERN)], "found no speed-*.json"),
    ],
)
def test_unusable_results_leave_the_readme_as_it_was(
    results: Path, readme: Path, capsys: Any, damage: Callable[[Path], Any], message: str
) -> None:
    damage(results)
    assert main(["--results", str(results), "--readme", str(readme)]) == 2
    assert message in capsys.readouterr().err
    assert "\nold\n" in readme.read_text()


@pytest.mark.parametrize("text", ["nothing", f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_missing_or_misplaced_markers_are_refused(readme: Path, capsys: Any, text: str) -> None:
    readme.write_text(text)
    assert main([*PUBLISHED, "--readme", str(readme)]) == 2
    assert "expected once each, in this order" in capsys.readouterr().err
    assert readme.read_text() == text
