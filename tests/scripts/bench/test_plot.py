"""``bench --plot`` draws the measured speeds and latencies, and the limit."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="plots are drawn with matplotlib")

from small_voice import SMALL_VOICE

from wavernn_trt.scripts.bench import plot as bench_plot
from wavernn_trt.scripts.bench.backends import BACKENDS
from wavernn_trt.scripts.bench.report_file import SCHEMA
from wavernn_trt.scripts.bench.timing import SUBJECTS

Bench = Callable[..., tuple[int, str, str]]


def result(subject: str, batch: int, speed: float, latency: bool = True) -> dict[str, Any]:
    seconds = batch / speed
    return {
        "subject": subject,
        "batch": batch,
        "place": "gpu" if subject.startswith(("tensorrt", "cuda")) else "cpu",
        "samples_per_second": speed,
        "slowest": 0.8 * speed,
        "fastest": 1.1 * speed,
        "chunk_samples": 320 if latency else None,
        "first_chunk_seconds": 400 * seconds if latency else None,
        "chunk_seconds": 320 * seconds if latency else None,
        "repeats": {
            "first_chunk": [300 * seconds, 400 * seconds, 600 * seconds] if latency else [],
            "chunk": [310 * seconds, 320 * seconds, 330 * seconds] if latency else [],
        },
    }


@pytest.fixture
def report() -> dict[str, Any]:
    """A report of one backend and the plain loop, its batches not in order."""
    return {
        "scenario": "speed",
        "model": {
            "family": "univoc",
            "layers": 1,
            "hidden_size": 256,
            "sample_rate": 16000,
            "multiply_adds": 500_000,
        },
        "machine": {"cpu": "a CPU"},
        "threads": 1,
        "schema": SCHEMA,
        "limit": {"library": "onnxruntime", "flops": {"onnxruntime": 3e11, "numpy": 9e11}},
        "gpu_limit": None,
        "results": [
            result("onnxruntime", 8, 150_000),
            result("onnxruntime", 1, 48_000),
            result("pytorch loop", 1, 9_000, latency=False),
            result("pytorch loop", 8, 36_000, latency=False),
        ],
        "missing": {},
    }


@pytest.fixture
def axes(report: dict[str, Any]) -> tuple[Any, Any]:
    throughput, latency = bench_plot.lay_out_figure(report).axes
    return throughput, latency


def curves(axes: Any) -> dict[str, tuple[list[float], list[float], list[tuple[float, float]]]]:
    """Each curve's batches, values and spread, by its name in the legend."""
    found = {}
    for container in axes.containers:
        line, _, (bars,) = container.lines
        spread = [(float(low), float(high)) for (_, low), (_, high) in bars.get_segments()]
        found[container.get_label()] = (list(line.get_xdata()), list(line.get_ydata()), spread)
    return found


def level(axes: Any, name: str) -> float:
    (line,) = [line for line in axes.lines if line.get_label() == name]
    return float(line.get_ydata()[0])


def test_throughput_is_drawn_with_its_spread_and_the_limit(axes: tuple[Any, Any]) -> None:
    drawn = curves(axes[0])
    assert set(drawn) == {"onnxruntime", "pytorch loop"}
    batches, speeds, spread = drawn["onnxruntime"]
    assert (batches, speeds) == ([1, 8], [48_000, 150_000])
    assert spread == [pytest.approx((0.8 * speed, 1.1 * speed)) for speed in speeds]
    assert level(axes[0], "limit: matrix product") == 3e11 / (2 * 500_000)
    assert drawn["pytorch loop"][1] == [9_000, 36_000]


def test_latency_is_drawn_in_milliseconds_beside_real_time(axes: tuple[Any, Any]) -> None:
    drawn = curves(axes[1])
    assert set(drawn) == {"first 20 ms", "a chunk (20 ms of speech)"}
    batches, times, spread = drawn["first 20 ms"]
    assert batches == [1, 8]
    assert times == pytest.approx([1e3 * 400 / 48_000, 1e3 * 400 * 8 / 150_000])
    assert spread[0] == pytest.approx((1e3 * 300 / 48_000, 1e3 * 600 / 48_000))
    assert drawn["a chunk (20 ms of speech)"][1] == pytest.approx([1e3 * 320 / 48_000, 1e3 * 320 * 8 / 150_000])
    assert level(axes[1], "a chunk in real time") == 20


def test_each_backend_has_its_own_curve(report: dict[str, Any]) -> None:
    report["results"].append(result("tensorrt-rtx", 8, 900_000))
    throughput, latency = bench_plot.lay_out_figure(report).axes
    assert {"onnxruntime, first 20 ms", "tensorrt-rtx, first 20 ms"} <= set(curves(latency))
    colours = {container.lines[0].get_color() for container in throughput.containers}
    markers = {container.lines[0].get_marker() for container in throughput.containers}
    assert len(colours) == len(markers) == 3
    assert level(throughput, "limit: CPU matrix product") == 3e11 / (2 * 500_000)


def test_all_backends_and_peers_have_different_colours_and_markers(report: dict[str, Any]) -> None:
    subjects = (*BACKENDS, *SUBJECTS.values())
    report["results"] = [result(subject, 1, 1000.0, latency=subject in BACKENDS) for subject in subjects]
    throughput, _ = bench_plot.lay_out_figure(report).axes
    styles = {(container.lines[0].get_color(), container.lines[0].get_marker()) for container in throughput.containers}
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == len(subjects)


def test_the_limit_is_a_line_across_logarithmic_axes(axes: tuple[Any, Any], report: dict[str, Any]) -> None:
    for one in axes:
        assert (one.get_xscale(), one.get_yscale()) == ("log", "log")
    report["results"] = [result("cuda", batch, 1e6 * batch) for batch in (1, 8)]
    report["gpu_limit"] = {"flops": {"gpu fp16 product": 5e14}}
    throughput, _ = bench_plot.lay_out_figure(report).axes
    (line,) = [line for line in throughput.lines if str(line.get_label()).startswith("limit")]
    assert line.get_label() == "limit: GPU fp16 product"
    assert list(line.get_xdata()) == [0, 1]  # of the axes, from one side to the other
    assert set(line.get_ydata()) == {5e14 / (2 * 500_000)}


def test_the_same_report_makes_the_same_file_of_a_size_for_a_readme(bench: Bench, tmp_path: Path) -> None:
    old = Path(__file__).resolve().parents[3] / "scripts" / "bench" / "results" / "lj-small-cpu.json"
    contents = {}
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        assert bench("--plot", tmp_path / name, "--from", old) == (0, "", "")
        contents[name] = (tmp_path / name).read_bytes()
    assert contents["a.png"] == contents["b.png"]
    assert contents["a.svg"] == contents["b.svg"]
    width, height = struct.unpack(">II", contents["a.png"][16:24])
    assert contents["a.png"].startswith(b"\x89PNG")
    assert 1200 <= width <= 2000
    assert 0.3 < height / width < 0.6
    assert 10_000 < len(contents["a.png"]) < 200_000
    assert ElementTree.fromstring(contents["a.svg"]).tag.endswith("svg")


def test_a_run_can_be_drawn_without_a_second_command(bench: Bench, tmp_path: Path) -> None:
    options = ("--backend", "onnxruntime", "--peers", "none", "--batch", "1:2", "--seconds", "0.04", "--repeats", "1")
    files = {name: tmp_path / name for name in ("now.svg", "again.svg", "speed.json")}
    code, out, err = bench(
        *options, "-q", "--model", SMALL_VOICE, "--plot", files["now.svg"], "--json", files["speed.json"]
    )
    assert (code, err) == (0, "")
    assert "samples/s" in out
    assert bench("--plot", files["again.svg"], "--from", files["speed.json"]) == (0, "", "")
    assert files["now.svg"].read_bytes() == files["again.svg"].read_bytes()


def test_without_matplotlib_the_error_names_the_extra_before_anything_is_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    code, out, err = bench("--plot", tmp_path / "speed.png")
    assert (code, out) == (2, "")
    assert "matplotlib is not installed; install it with: pip install '.[plot]'" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plot", "speed.pdf"), "expected a name that ends in .png or .svg"),
        (("--plot", "no/such/folder.png"), "is not a folder"),
        (("--plot", "folder.png"), "folder.png, expected a file's name"),
        (("--from", "speed.json"), "--from: found it without --plot, --compare or --price"),
    ],
)
def test_wrong_usage_exits_2_before_the_measurement(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "found something else, expected a report"),
        ('{"schema": 2, "scenario": "batch", "results": []}', "--plot: found it with --scenario batch"),
        ("{}", "found no schema, expected 2; read it with the version that wrote it"),
        ('{"schema": 2, "scenario": "speed"}', "found no usable 'results'"),
        ('{"schema": 2, "scenario": "speed", "results": [{}]}', "found no usable 'model'"),
        ('{"schema": 3}', "found a report of schema 3, expected 2; read it with the version that wrote it"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_report_is_refused(bench: Bench, tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "old.json").write_text(content)
    code, out, err = bench("--plot", tmp_path / "x.png", "--from", tmp_path / "old.json")
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "x.png").exists()
