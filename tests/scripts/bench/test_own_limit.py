"""The native decoder in ``bench``: its precisions in one run, and the limits of rows on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.export.sequence import read_sequence
from wavernn_trt.plugins.arguments import MATRICES
from wavernn_trt.plugins.cpu.decoder import NativeDecoder, StepWork
from wavernn_trt.plugins.cpu.library import INSTALL, NativeLibraryError, native_library
from wavernn_trt.runtime.executors import native_executor
from wavernn_trt.runtime.executors.native_executor import open_native
from wavernn_trt.runtime.loaded_model import shipped_voice
from wavernn_trt.scripts.bench import own_limit
from wavernn_trt.scripts.bench.backends import BACKENDS, UnavailableError, load_backend
from wavernn_trt.scripts.bench.own_limit import CPU, FLOATS, INTEGERS, describe_own_limit, own_limits, read_of
from wavernn_trt.scripts.bench.report import lay_out
from wavernn_trt.scripts.bench.tables import lay_out as lay_out_table
from wavernn_trt.scripts.bench.timing import Timing

Bench = Callable[..., tuple[int, str, str]]
SMALL = ("--seconds", "0.04", "--repeats", "2", "--threads", "1", "--peers", "none", "-q")
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


@pytest.fixture
def needs_library() -> None:
    try:
        native_library()
    except NativeLibraryError as error:
        pytest.skip(f"the native decoder: {error}")


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise NativeLibraryError(INSTALL)

    for module in (native_executor, own_limit):
        monkeypatch.setattr(module, "native_library", missing)


@pytest.mark.slow
@pytest.mark.usefixtures("needs_library")
def test_precisions_and_onnxruntime_are_measured_in_the_same_rounds(bench: Bench, tmp_path: Path) -> None:
    subjects = ("native", *(f"native-{name}" for name in BYTES), "onnxruntime")
    code, out, err = bench(*SMALL, "--backend", ",".join(subjects), "--batch", "1,2", "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "bench.json").read_text())
    results = report["results"]
    assert [(row["subject"], row["batch"]) for row in results] == [
        (name, batch) for batch in (1, 2) for name in subjects
    ]
    weights = report["model"]["multiply_adds"]
    default = open_model_directory(shipped_voice()).cpu_precision
    reads = {read["bytes"]: read for read in report["cpu_limit"]["reads"]}
    assert set(reads) == {size * weights for size in BYTES.values()}
    assert report["cpu_limit"]["path"] == native_library().path
    for row in results:
        precision = {"native": default, "onnxruntime": "fp32"}.get(row["subject"]) or row["subject"].split("-")[1]
        assert row["precision"] == precision
        assert row["weight_bytes_a_step"] == BYTES[precision] * weights
        assert row["share_of_limit"] == median(row["shares"]) > 0
        own, place = row["own_limit"], (1, 2).index(row["batch"])
        products = report["cpu_limit"]["integer_products" if precision == "int8" else "float_products"]
        limits = [
            1 / max(row["weight_bytes_a_step"] / read[place] / row["batch"], weights / product[place])
            for read, product in zip(reads[row["weight_bytes_a_step"]]["repeats"], products["repeats"], strict=True)
        ]
        speeds = [row["samples"] / elapsed for elapsed in row["repeats"]["elapsed"]]
        assert own["shares"] == pytest.approx([speed / most for speed, most in zip(speeds, limits, strict=True)])
        assert own["share"] == median(own["shares"])
        assert own["samples_per_second"] == pytest.approx(median(limits))
        assert own["binds"] in ("reads", "products")
        assert row["times"]["onnxruntime"] > 0
        shown = {"native": f"native ({default})"}.get(row["subject"], row["subject"])
        line = next(line for line in out.splitlines() if line.startswith(f"{shown}  ") and f" {row['batch']}  " in line)
        assert f"{100 * own['share']:.1f} % {own['binds']}" in line
    assert "x onnxruntime" in out
    assert f"own limit {native_library().path}: " in out


@pytest.mark.usefixtures("without_library")
def test_a_missing_library_is_reported_with_the_way_to_get_it(bench: Bench, tmp_path: Path) -> None:
    options = ("--backend", "native,native-int8,onnxruntime", "--batch", "1")
    code, out, err = bench(*SMALL, *options, "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "bench.json").read_text())
    (row,) = report["results"]
    assert row["own_limit"] is report["cpu_limit"] is None
    assert row["share_of_limit"] > 0
    for name in ("native", "native-int8", CPU):
        assert report["missing"][name].startswith("not measured: ")
        assert INSTALL in report["missing"][name]
    assert "own limit" in out
    code, out, _ = bench("--scenario", "stream", "--backend", "native", "-q")
    assert code == 1
    assert "native: not measured: the native decoder is not installed: " in out


@pytest.mark.usefixtures("without_library")
def test_limits_need_the_library() -> None:
    with pytest.raises(UnavailableError, match="not measured: it needs the native decoder's library: "):
        own_limits(1, [])


@pytest.mark.slow
@pytest.mark.usefixtures("needs_library")
def test_first_audio_of_a_warm_model_is_reported_for_native_and_onnxruntime(bench: Bench, tmp_path: Path) -> None:
    options = ("--listeners", "1", "--lengths", "4:4", "--seconds", "0.1", "--openings", "2", "--threads", "1")
    code, out, err = bench("--scenario", "stream", *options, "-q", "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [row["subject"] for row in report["results"]] == ["native", "onnxruntime"]
    for row in report["results"]:
        assert row["lengths"] == [4.0, 4.0]
        assert row["first_frame_alone"]["count"] == 2
        assert row["slots"] == 32
    assert out.count("first frame, with no other stream: p50 ") == 2


@pytest.mark.usefixtures("needs_library")
def test_utterances_of_a_job_are_the_same_alone(bench: Bench, tmp_path: Path) -> None:
    size = ("--utterances", "6", "--lengths", "0.02:0.05", "--threads", "1", "--batch", "3", "--backend", "native-int8")
    code, out, err = bench("--scenario", "batch", *size, "-q", "--json", tmp_path / "bench.json")
    assert (code, err) == (0, "")
    (row,) = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert (row["subject"], row["precision"], row["slots"]) == ("native-int8", "int8", 3)
    assert row["sound"]
    assert "6 of 6" in out


@pytest.mark.parametrize("precision", BYTES)
@pytest.mark.usefixtures("needs_library")
def test_the_decoder_counts_the_work_of_a_step(precision: Any) -> None:
    directory = open_model_directory(shipped_voice())
    weights = directory.model.multiply_adds
    integers = weights if precision == "int8" else 0
    executor = open_native(directory, precision, threads=1)
    assert executor.work == StepWork(BYTES[precision] * weights, weights - integers, integers)


@pytest.mark.parametrize(("zeros", "skipped"), [("skip", True), ("dense", False)])
@pytest.mark.usefixtures("needs_library")
def test_skipped_zeros_are_no_work(zeros: Any, skipped: bool) -> None:
    """Three of four blocks of 16 rows are zero in every matrix."""
    sequence = read_sequence(open_model_directory(shipped_voice()))
    assert sequence is not None
    weights = dict(sequence.weights)
    for name in MATRICES:
        if name in weights:
            weights[name] = weights[name].copy()
            weights[name][:, np.arange(weights[name].shape[1]) % 4 != 0] = 0.0
    count = sum(weights[name].size for name in MATRICES if name in weights)
    work = NativeDecoder(sequence.shape, weights, None, {}, zeros=zeros).work
    if skipped:
        assert work == StepWork(count // 4 * 4 + count // 4 // 16 * 2, count // 4)
    else:
        assert work == StepWork(count * 4, count)


@pytest.mark.usefixtures("needs_library")
def test_a_subject_names_the_precision() -> None:
    assert {"native", "native-fp32", "native-bf16", "native-int8"} < set(BACKENDS)
    with load_backend(shipped_voice(), "native-bf16", 1) as vocoder:
        assert (vocoder.executor.name, vocoder.executor.precision) == ("native", "bf16")  # type: ignore[attr-defined]


def test_the_slower_of_reads_and_products_is_the_limit() -> None:
    work = StepWork(weight_bytes=1000, float_products=300, integer_products=700)
    limits = {read_of(1000): [[1e9, 1e9], [2e9, 2e9]], FLOATS: [[3e9, 3e9]] * 2, INTEGERS: [[7e9, 7e9]] * 2}
    # A step takes 1 us for its weights (0.5 in the second round), and 0.2 us for the products of each stream.
    one, many = (Timing("native", batch, 100, work=work) for batch in (1, 10))
    found = describe_own_limit(one, [5e5, 1e6], limits, 0)
    assert found is not None
    assert (found["binds"], found["share"]) == ("reads", pytest.approx(0.5))
    assert found["shares"] == pytest.approx([0.5, 0.5])
    assert found["samples_per_second"] == pytest.approx(1.5e6)
    assert (found["read_seconds"], found["product_seconds"]) == pytest.approx((0.75e-6, 0.2e-6))
    found = describe_own_limit(many, [4e6, 4e6], limits, 1)
    assert found is not None
    assert (found["binds"], found["share"]) == ("products", pytest.approx(0.8))
    assert describe_own_limit(Timing("torch", 1, 100), [1.0], limits, 0) is None
    assert describe_own_limit(one, [1.0, 1.0], {}, 0) is None


@pytest.mark.usefixtures("needs_library")
def test_every_limit_is_measured_by_its_name() -> None:
    limits = own_limits(1, [StepWork(10_000, 5000), StepWork(5000, 0, 5000), StepWork(10_000, 0, 5000), StepWork(8, 1)])
    assert list(limits) == [FLOATS, INTEGERS, read_of(10_000), read_of(5000), read_of(8)]
    assert all(measure() > 1e7 for measure in limits.values())


def test_texts_show_the_share_of_the_row_s_own_limit() -> None:
    results = Path(__file__).resolve().parents[3] / "scripts" / "bench" / "results"
    report = json.loads((results / "speed-heart-lj.json").read_text())
    products = {"multiply_adds_per_second": 5e10, "repeats": []}
    report["cpu_limit"] = {
        "path": "avx512",
        "float_products": products,
        "integer_products": products,
        "reads": [{"bytes": 1_000_000, "bytes_per_second": 6e10, "repeats": []}],
    }
    own = [row for row in report["results"] if row["subject"] == "native-int8" and row["batch"] in (1, 32)]
    for row in own:
        row |= {"own_limit": {"share": 0.613, "binds": "reads"}}
    own[0]["own_limit"] = None
    rows = [line for line in lay_out_table([report]) if "| native-int8 |" in line]
    assert len(rows) == len(own)
    assert all(row.endswith("| 61 % |") for row in rows[1:])
    assert "| 61 % |" not in rows[0]
    assert "reading the weights once a step" in " ".join(lay_out_table([report]))
    text = "\n".join(lay_out(report))
    assert text.count("61.3 % reads") == len(rows) - 1
    assert "own limit avx512: 50.0 G multiply-adds/s of floats, 50.0 of integers" in text
    assert "reads of weights: 1.00 MB at 60.0 GB/s" in text
