"""``bench --compare`` finds what became slower, and does not blame a slower machine on the product."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from wavernn_trt.scripts.bench.compare import COARSEST, LEAST, RULE, SAME_LIMIT, Comparison, Row, compare, spread
from wavernn_trt.scripts.bench.report_file import SCHEMA, read_report

Bench = Callable[..., tuple[int, str, str]]
QUIET = (98.0, 100.0, 99.0, 101.0, 102.0)
"""Thousands of samples a second in five repeats: the spread is 1.5 of 100."""
MULTIPLY_ADDS = 500_000


def speed_report(
    speeds: Sequence[float] = QUIET, flops: float = 3e11, subject: str = "onnxruntime", batch: int = 8
) -> dict[str, Any]:
    """A report of one row whose limit is the same in every round."""
    samples = 32_000
    elapsed = [samples / (1000 * speed) for speed in speeds]
    shares = [2 * MULTIPLY_ADDS * 1000 * speed / flops for speed in speeds]
    return {
        "schema": SCHEMA,
        "scenario": "speed",
        "date": "2026-11-28T12:00:00+00:00",
        "machine": {"cpu": "a CPU", "cores": 2, "usable_cores": 2, "memory_gib": 8, "system": "Linux"},
        "gpu": None,
        "versions": {"onnxruntime": "1.0", "numpy": "2.0"},
        "model": {
            "name": "mine",
            "family": "univoc",
            "hidden_size": 256,
            "layers": 1,
            "fc_sizes": [192],
            "outputs": 256,
            "sample_rate": 16000,
            "multiply_adds": MULTIPLY_ADDS,
        },
        "threads": 1,
        "seconds": 0.25,
        "results": [
            {
                "subject": subject,
                "batch": batch,
                "place": "cpu",
                "precision": "fp32",
                "samples": samples,
                "chunk_samples": 320,
                "share_of_limit": sorted(shares)[len(shares) // 2],
                "shares": shares,
                "repeats": {"elapsed": elapsed},
            }
        ],
        "missing": {},
    }


def only(comparison: Comparison) -> Row:
    (row,) = comparison.rows
    return row


def times(factor: float) -> tuple[float, ...]:
    return tuple(factor * speed for speed in QUIET)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.0, "same"), (0.95, "same"), (0.92, "same"), (0.90, "SLOWER"), (0.5, "SLOWER"), (1.08, "same"), (1.2, "faster")],
)
def test_a_change_beyond_both_spreads_is_found(factor: float, verdict: str) -> None:
    row = only(compare(speed_report(), speed_report(times(factor))))
    assert (row.verdict, row.basis) == (verdict, "speed")
    assert row.ratio == pytest.approx(factor)
    assert row.allowed == pytest.approx(3 * 1.4826 * (1 + factor) / 100)


def test_a_change_that_the_spread_hides_is_not_judged() -> None:
    wavering = (70.0, 130.0, 100.0, 85.0, 115.0)
    comparison = compare(speed_report(wavering), speed_report(times(0.5)))
    row = only(comparison)
    assert row.allowed is not None
    assert row.allowed > COARSEST
    assert (row.verdict, row.reason) == ("not judged", "repeats waver: they would hide 69 %")
    assert not comparison.judged
    assert only(compare(speed_report(wavering), speed_report(times(0.2)))).verdict == "SLOWER"


def test_a_machine_that_slowed_down_is_judged_by_the_share_of_its_limit() -> None:
    slowed = 1 - SAME_LIMIT - 0.02
    equal = (100.0,) * 5
    row = only(compare(speed_report(equal), speed_report((100.0 * slowed,) * 5, flops=3e11 * slowed)))
    assert (row.verdict, row.basis) == ("same", "share")
    comparison = compare(speed_report(), speed_report(times(0.5), flops=1.5e11))
    assert comparison.machine == ()
    assert (only(comparison).verdict, only(comparison).basis) == ("same", "share")
    assert only(compare(speed_report(), speed_report(times(0.5), flops=2.9e11))).basis == "speed"


def test_one_outlier_neither_makes_a_regression_nor_hides_one() -> None:
    outlier = (*QUIET[:4], 10.0)
    assert only(compare(speed_report(), speed_report(outlier))).verdict == "same"
    assert only(compare(speed_report(outlier), speed_report(times(0.7)))).verdict == "SLOWER"
    assert spread(QUIET) == pytest.approx(1.4826)


def test_a_few_per_cent_are_no_regression_even_without_spread() -> None:
    equal = (100.0,) * 5
    row = only(compare(speed_report(equal), speed_report((96.0,) * 5)))
    assert (row.verdict, row.allowed) == ("same", LEAST)
    assert only(compare(speed_report(equal), speed_report((94.0,) * 5))).verdict == "SLOWER"


def test_too_few_repeats_are_not_judged() -> None:
    comparison = compare(speed_report(), speed_report((50.0, 50.0)))
    assert (only(comparison).verdict, only(comparison).reason) == ("not judged", "2 repeats, expected 5 or more")
    assert not comparison.judged


def test_another_machine_is_judged_by_the_share_of_its_own_limit() -> None:
    slow = speed_report(times(0.5), flops=1.5e11)
    slow["machine"]["cpu"] = "another CPU"
    comparison = compare(speed_report(), slow)
    assert comparison.machine == ("cpu a CPU -> another CPU",)
    row = only(comparison)
    assert (row.verdict, row.basis) == ("same", "share")
    assert row.ratio == pytest.approx(1)
    assert row.new is not None
    assert row.old is not None
    assert row.new / row.old == pytest.approx(0.5)
    faster = speed_report(times(1.2), flops=6e11)
    faster["machine"]["cpu"] = "another CPU"
    assert only(compare(speed_report(), faster)).verdict == "SLOWER"


def test_another_machine_without_a_limit_is_not_judged() -> None:
    old, new = speed_report(), speed_report()
    new["machine"]["cores"] = 4
    for report in (old, new):
        report["results"][0] |= {"share_of_limit": None, "shares": None}
    assert only(compare(old, new)).reason == "another machine, and no limit measured"
    new["machine"]["cores"] = 2
    assert only(compare(old, new)).verdict == "same"


def test_another_gpu_is_another_machine() -> None:
    old, new = speed_report(), speed_report()
    old["gpu"] = {"before": {"name": "one"}, "after": None}
    new["gpu"] = {"before": None, "after": {"name": "other"}}
    assert compare(old, new).machine == ("gpu one -> other",)


def test_rows_of_different_batches_or_chunks_are_not_compared() -> None:
    old, new = speed_report(), speed_report(batch=1)
    reasons = {row.batch: row.reason for row in compare(old, new).rows}
    assert reasons == {1: "only in the new report", 8: "only in the old report"}
    new["missing"] = {"onnxruntime": "not measured: it is broken"}
    assert compare(old, new).rows[1].reason == "only in the old report; now not measured: it is broken"
    new = speed_report()
    new["results"][0]["chunk_samples"] = 1024
    assert only(compare(old, new)).reason == "chunk_samples 320 -> 1024"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 2}, "different settings: threads 1 -> 2"),
        ({"seconds": 1.0}, "different settings: seconds 0.25 -> 1.0"),
        ({"scenario": "batch"}, "found reports of --scenario speed and batch"),
        ({"scenario": "stream"}, "expected two of speed or two of batch"),
        ({"model": {**speed_report()["model"], "hidden_size": 512}}, "different models: hidden_size 256 -> 512"),
    ],
)
def test_reports_of_different_settings_or_models_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(speed_report(), {**speed_report(), **change})


def test_the_command_exits_1_where_something_is_slower_and_writes_the_comparison(bench: Bench, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("old", "new", "both")}
    files["old"].write_text(json.dumps(speed_report()))
    new = speed_report(times(0.5))
    new["results"] += speed_report(times(2), subject="torch")["results"]
    new["versions"]["onnxruntime"] = "1.1"
    new["others_share"] = 0.3
    files["new"].write_text(json.dumps(new))
    code, out, err = bench("--from", files["new"], "--compare", files["old"], "--json", files["both"])
    assert code == 1
    assert "error: slower than" in err
    assert "onnxruntime 1.0 -> 1.1" in out
    assert "other processes used - of all cores, now 30.0 %" in out
    assert "1 slower, 0 faster, 1 of 2 judged" in out
    kept = json.loads(files["both"].read_text())["comparison"]
    assert kept["with"] == "old.json"
    assert [row["verdict"] for row in kept["rows"]] == ["SLOWER", "not judged"]
    code, out, err = bench("--from", files["old"], "--compare", files["old"])
    assert (code, err) == (0, "")
    new["machine"]["cpu"] = "another CPU"
    files["new"].write_text(json.dumps(new))
    code, out, _ = bench("--from", files["old"], "--compare", files["new"])
    assert "ANOTHER MACHINE: cpu another CPU -> a CPU" in out


def test_a_comparison_without_a_judged_row_exits_2(bench: Bench, tmp_path: Path) -> None:
    for name, batch in (("old", 1), ("new", 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps(speed_report(batch=batch)))
    code, out, err = bench("--from", tmp_path / "new.json", "--compare", tmp_path / "old.json")
    assert code == 2
    assert "only in the new report" in out
    assert "no row of the two reports could be judged" in err


@pytest.mark.slow
def test_a_run_is_compared_with_an_earlier_report(bench: Bench, tmp_path: Path) -> None:
    options = ("--backend", "onnxruntime", "--peers", "none", "--batch", "1", "--seconds", "0.02", "--threads", "1")
    options += ("-q", "--repeats", "1")
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    assert bench(*options, "--json", old)[0] == 0
    code, out, _ = bench(*options, "--compare", old, "--json", new)
    assert code == 2  # one repeat is not judged
    row = json.loads(new.read_text())["comparison"]["rows"][0]
    assert row["old"] == json.loads(old.read_text())["results"][0]["samples_per_second"]
    assert row["new"] == json.loads(new.read_text())["results"][0]["samples_per_second"]
    assert "compared with old.json" in out
    code, _, err = bench("--scenario", "batch", "--compare", old)
    assert (code, "found a report of --scenario speed, expected one of batch" in err) == (2, True)


def test_jobs_are_compared_by_the_speeds_of_their_parts(bench: Bench, tmp_path: Path) -> None:
    sizes = ("--utterances", "12", "--lengths", "0.02:0.06", "--batch", "3", "--threads", "1")
    file, slower = tmp_path / "job.json", tmp_path / "slower.json"
    assert bench("--scenario", "batch", *sizes, "--verify", "0", "-q", "--json", file)[0] == 0
    report = json.loads(file.read_text())
    job = report["results"][0]["scheduler"]
    assert len(job["repeats"]) >= 3
    job["repeats"] = [100.0, 101.0, 102.0, 99.0, 100.0]
    file.write_text(json.dumps(report))
    assert bench("--from", file, "--compare", file)[0] == 0
    job["samples_per_second"] /= 2
    report["results"][0]["share_of_limit"] /= 2
    slower.write_text(json.dumps(report))
    code, out, _ = bench("--from", slower, "--compare", file)
    assert (code, "SLOWER" in out) == (1, True)


def test_published_reports_can_be_read_and_compared(bench: Bench, tmp_path: Path) -> None:
    results = Path(__file__).resolve().parents[3] / "scripts" / "bench" / "results"
    for published in results.glob("*.json"):
        for result in read_report(published, "--from")["results"]:
            assert sorted(result["shares"])[len(result["shares"]) // 2] == pytest.approx(result["share_of_limit"])
        code, out, _ = bench("--from", published, "--price", "0.5", "--currency", "EUR")
        assert code == 0
        assert "1,000 hours of speech, at 0.5 EUR an hour" in out
        assert bench("--from", published, "--compare", published)[0] in (0, 2)


def test_the_error_for_a_damaged_report_names_the_file(bench: Bench, tmp_path: Path) -> None:
    damaged = speed_report()
    del damaged["results"][0]["repeats"]
    for name, report in (("old", damaged), ("new", speed_report())):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    code, _, err = bench("--from", tmp_path / "new.json", "--compare", tmp_path / "old.json")
    assert code == 2
    assert "old.json: found no usable 'repeats', expected what 'bench --json' wrote" in err


def test_the_help_states_the_rule(bench: Bench) -> None:
    _, out, _ = bench("--help")
    assert RULE in out
    for number in ("5 %", "3 times both", "1.4826", "5 repeats", "25 %"):
        assert number in RULE
