"""The command ``engines``: lists, shows and removes the plans of the cache."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from wavernn_trt.engines.cache import EngineCache
from wavernn_trt.scripts.arguments import byte_size, duration

Command = Callable[..., tuple[int, str, str]]
plans = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "engines" / "cache_plans.py")))
CONDITIONER = {"role": "conditioner", "form": None, "steps": None, "window": None, "frames": (2, 512, 4096)}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """Three plans: a decoder of an hour ago, its conditioner of 40 days ago, and another decoder."""
    cache = EngineCache(tmp_path / "engines")
    now = time.time()
    for number, stem, age, changes in (
        (1, "lj_decoder", 3600.0, {}),
        (2, "lj_conditioner", 40 * 86400.0, {**CONDITIONER, "precision": "fp32", "plugins": ()}),
        (3, "lj_decoder", 0.0, {"targets": ("NVIDIA H200 sm90",), "form": "cell", "batch": (8, 8, 8)}),
    ):
        stored = plans.store(cache, number, stem, **changes)
        os.utime(stored.plan.with_name(stored.name + ".json"), (now - age, now - age))
    return cache


@pytest.fixture
def engines(command: Command) -> Command:
    """A function (arguments of ``engines``) -> the exit code, stdout and stderr."""
    return partial(command, "engines")


def name_of(number: int) -> str:
    return f"lj_{'conditioner' if number == 2 else 'decoder'}_{plans.key_of(number)[:8]}"


def file_of(cache: EngineCache, suffix: str, number: int = 1) -> Path:
    return cache.folder / name_of(number) / f"{name_of(number)}{suffix}"


def names(cache: EngineCache) -> set[str]:
    return {entry.name for entry in cache.scan()}


def test_list_prints_a_line_for_each_plan(cache: EngineCache, engines: Command) -> None:
    code, out, err = engines("list", "--cache", cache.folder)
    assert (code, err) == (0, "")
    head, *lines, total = out.splitlines()
    assert head.split() == ["role", "precision", "form", "batch", "steps", "targets", "size", "used", "name"]
    rows = {line.split()[-1]: line.split()[:-1] for line in lines}
    assert rows[name_of(1)][:6] == ["decoder", "fp16", "sequence", "1:8:64", "1024", "sm86+89"]
    assert rows[name_of(1)][-2:] == ["1", "h"]
    assert rows[name_of(2)][:6] == ["conditioner", "fp32", "-", "-", "-", "sm86+89"]
    assert rows[name_of(2)][-2:] == ["40", "d"]
    assert rows[name_of(3)][:8] == ["decoder", "fp16", "cell", "8", "1024", "NVIDIA", "H200", "sm90"]
    assert total.startswith("3 plans, ")
    assert total.endswith(f"in {cache.folder}")


def test_list_prints_json(cache: EngineCache, engines: Command) -> None:
    code, out, _ = engines("list", "--cache", cache.folder, "--json")
    assert code == 0
    listed = json.loads(out)
    assert listed["folder"] == str(cache.folder)
    assert listed["bytes"] == sum(path.stat().st_size for path in cache.folder.glob("lj_*/*"))
    assert {plan["name"] for plan in listed["plans"]} == {name_of(number) for number in (1, 2, 3)}
    first = next(plan for plan in listed["plans"] if plan["name"] == name_of(1))
    assert (first["state"], first["reason"]) == ("whole", None)
    assert first["manifest"]["bindings"][0]["profile"] == [[1, 1024, 1], [8, 1024, 1], [64, 1024, 1]]
    assert Path(first["plan"]).read_bytes() == plans.content_of(1)


def truncate(cache: EngineCache) -> None:
    os.truncate(file_of(cache, ".plan"), 5)


def break_the_record(cache: EngineCache) -> None:
    file_of(cache, ".json").write_text('{"\x1b[2J": 1}')


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(truncate, "it has 5 bytes, expected 1000"), (break_the_record, "its .json does not describe a plan")],
)
def test_a_damaged_plan_is_listed_with_the_reason(
    cache: EngineCache, engines: Command, damage: Callable[[EngineCache], None], reason: str
) -> None:
    damage(cache)
    code, out, _ = engines("list", "--cache", cache.folder)
    assert code == 1
    lines = out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.endswith(name_of(1)))
    assert lines[at + 1].startswith(f"  damaged: {reason}")
    assert "\x1b" not in out
    code, out, _ = engines("list", "--cache", cache.folder, "--json")
    assert code == 1
    (damaged,) = (plan for plan in json.loads(out)["plans"] if plan["state"] == "damaged")
    assert reason in damaged["reason"]
    code, out, _ = engines("show", name_of(1), "--cache", cache.folder)
    assert code == 1
    assert reason in out


def test_verify_finds_a_changed_byte(cache: EngineCache, engines: Command) -> None:
    plan = file_of(cache, ".plan")
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    assert engines("list", "--cache", cache.folder)[0] == 0
    code, out, _ = engines("list", "--verify", "--cache", cache.folder)
    assert code == 1
    assert "damaged: its SHA-256 is not its record's" in out


def test_show_finds_a_plan_by_its_name_or_digits_and_prints_its_record(cache: EngineCache, engines: Command) -> None:
    code, out, err = engines("show", name_of(1)[:-3], "--cache", cache.folder)
    assert (code, err) == (0, "")
    for text in (
        "whole, its SHA-256 matches",
        "tensorrt_rtx 1.7.1.116, wavernn-trt 0.1.0",
        "sm86, sm89",
        "1024 steps, 8 rows of conditioning",
        "1:8:64",
        "[?, 1024, 1]  from [1, 1024, 1] over [8, 1024, 1] to [64, 1024, 1]",
        "WaveRNNSequencePlugin version 1, namespace 'wavernn_trt', 1 node",
        "8 float32, 4 float16",
        "12.5 s, peak memory 3.0 GiB",
        plans.key_of(1),
    ):
        assert text in out, text
    code, out, _ = engines("show", name_of(2), "--cache", cache.folder)
    assert code == 0
    assert "2:512:4096" in out
    assert "none" in out
    assert engines("show", f"{name_of(3)}.plan", "--cache", cache.folder)[0] == 0
    code, out, _ = engines("show", plans.key_of(3)[:8], "--cache", cache.folder, "--json")
    assert code == 0
    assert json.loads(out)["manifest"]["targets"] == ["NVIDIA H200 sm90"]


def test_prune_removes_plans_by_age_by_size_and_all(cache: EngineCache, engines: Command) -> None:
    arguments = ("prune", "--cache", cache.folder, "--older-than", "30d")
    code, out, _ = engines(*arguments, "--dry-run")
    assert code == 0
    assert f"would remove {name_of(2)}" in out
    assert len(names(cache)) == 3
    code, out, _ = engines(*arguments)
    assert code == 0
    assert f"removed {name_of(2)}" in out
    assert out.splitlines()[-1].startswith("removed 1 plan, ")
    assert names(cache) == {name_of(1), name_of(3)}
    code, out, _ = engines("prune", "--cache", cache.folder, "--max-size", "4kB", "--json")
    assert code == 0
    pruned = json.loads(out)
    assert [plan["name"] for plan in pruned["removed"]] == [name_of(1)]
    assert pruned["bytes"] == pruned["removed"][0]["bytes"] > 1000
    assert (pruned["dry_run"], pruned["kept"], pruned["left_overs"]) == (False, [], 0)
    assert names(cache) == {name_of(3)}
    assert engines("prune", "--cache", cache.folder, "--all")[0] == 0
    assert names(cache) == set()


def test_prune_without_options_removes_damaged_plans_and_leftovers(cache: EngineCache, engines: Command) -> None:
    truncate(cache)
    left = cache.folder / f".building-{'0' * 8}-12345-abc"
    left.mkdir()
    code, out, _ = engines("prune", "--cache", cache.folder)
    assert code == 0
    assert f"removed {name_of(1)} (" in out
    assert "it has 5 bytes" in out
    assert "removed the leftovers of 1 unfinished build" in out
    assert names(cache) == {name_of(2), name_of(3)}
    assert not left.exists()


def test_prune_keeps_a_plan_that_is_being_built_and_names_its_process(cache: EngineCache, engines: Command) -> None:
    with cache.building("lj_decoder", plans.key_of(1)):
        code, _, err = engines("prune", "--all", "--cache", cache.folder)
        assert code == 1
        assert f"{name_of(1)} is kept: process {os.getpid()} is building it" in err
    assert names(cache) == {name_of(1)}


def test_an_empty_cache_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: Command) -> None:
    pytest.importorskip("platformdirs", reason="the user's cache is found with platformdirs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = engines("list")
    assert (code, out) == (0, "")
    assert f"no plans in {tmp_path}" in err
    assert "wavernn-trt build" in err
    code, out, _ = engines("list", "--json")
    assert json.loads(out)["plans"] == []
    assert engines("prune", "--all")[:2] == (0, "removed 0 plans, 0 B\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "COMMAND"),
        (("burn",), "invalid choice: 'burn'"),
        (("list", "--cache", "nowhere"), "nowhere does not exist; expected a folder of plans"),
        (("list", "--cache", ""), "expected a path"),
        (("show", "--cache", "engines"), "NAME"),
        (("show", "nothing", "--cache", "engines"), "no plan in"),
        (("show", "lj_", "--cache", "engines"), "'lj_' matches 3 plans"),
        (("prune", "--cache", "engines", "--max-size", "much"), "found 'much', expected a size such as 10GiB"),
        (("prune", "--cache", "engines", "--older-than", "30"), "found '30', expected a time such as 30d"),
        (("prune", "--cache", "mine", "--all"), "is no engine cache"),
    ],
)
def test_wrong_usage_exits_2(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch, engines: Command, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(cache.folder.parent)
    Path("mine").mkdir()
    before = names(cache)
    code, out, err = engines(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert names(cache) == before


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("10GiB", 10 << 30), ("1.5 MB", 1_500_000), ("2kb", 2000), ("3B", 3)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2m", 120), ("1.5h", 5400), ("30d", 2592000), ("2w", 1209600)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("parse", "text"),
    [(byte_size, text) for text in ("", "-1", "10G", "1e3", "inf", "1..2", "٣")]
    + [(duration, text) for text in ("", "30", "-1d", "d", "1y", "1D")],
)
def test_invalid_sizes_and_times_are_refused(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a (size such as 10GiB|time such as 30d)"):
        parse(text)
