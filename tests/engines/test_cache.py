"""Plans are found by key, not used when damaged, and evicted in the order of their last use."""

from __future__ import annotations

import logging
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from wavernn_trt.engines import cache_entries
from wavernn_trt.engines.cache import CachedPlan, EngineCache, EngineCacheError
from wavernn_trt.engines.cache_entries import compiled_file

plans = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cache_plans.py"))))
STEM: str = plans.STEM
KEY: str = plans.key_of(1)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def sidecar(plan: CachedPlan) -> Path:
    return plan.plan.with_name(plan.name + ".json")


def files(cache: EngineCache) -> list[str]:
    return sorted(path.name for path in cache.folder.glob("*/*.*") if path.suffix in (".plan", ".json"))


def test_a_stored_plan_is_found_again(cache: EngineCache) -> None:
    assert cache.find(STEM, KEY) is None
    stored = plans.store(cache, 1)
    assert stored.name == f"{STEM}_{KEY[:8]}"
    found = EngineCache(cache.folder).find(STEM, KEY)
    assert found == stored
    assert found is not None
    assert found.plan.read_bytes() == plans.content_of(1)
    assert cache.find(STEM, plans.key_of(2)) is None
    assert [(entry.name, entry.state) for entry in cache.scan()] == [(stored.name, "whole")]
    assert files(cache) == [f"{stored.name}.json", f"{stored.name}.plan"]


def test_the_key_finds_a_plan_whose_model_directory_was_renamed(cache: EngineCache) -> None:
    stored = plans.store(cache, 1)
    assert cache.find("srv-voice_decoder", KEY) == stored


def test_two_keys_with_the_same_first_digits_do_not_collide(cache: EngineCache) -> None:
    other = KEY[:8] + "0" * 56
    stored = plans.store(cache, 1)
    assert cache.find("another-stem", other) is None
    assert cache.find(STEM, KEY) == stored


@pytest.mark.parametrize("stem", ["../../etc/passwd", ".hidden", "ein Name: 日本", "x" * 500, "", "a\nb\x1b[2J"])
def test_any_stem_becomes_a_name_inside_the_folder(cache: EngineCache, stem: str) -> None:
    stored = plans.store(cache, 1, stem)
    assert stored.plan.parent == cache.folder / stored.name
    assert stored.name.isprintable()
    assert cache.find(stem, KEY) == stored
    assert [(entry.name, entry.state) for entry in cache.scan()] == [(stored.name, "whole")]


@pytest.mark.parametrize("key", ["", "3fa91c02", "../" + "0" * 61, "G" * 64, "A" * 64])
def test_invalid_keys_are_refused(cache: EngineCache, key: str) -> None:
    with pytest.raises(ValueError, match="expected 64 hexadecimal digits"):
        cache.find(STEM, key)
    with pytest.raises(ValueError, match="expected 64 hexadecimal digits"), cache.building(STEM, key):
        pass
    assert not cache.folder.exists()


def flip_a_byte(cache: EngineCache, plan: CachedPlan) -> None:
    """The file keeps its size and times, as after a fault of the disk."""
    content, before = bytearray(plan.plan.read_bytes()), plan.plan.stat()
    content[500] ^= 1
    with plan.plan.open("r+b") as file:
        file.write(content)
    os.utime(plan.plan, ns=(before.st_atime_ns, before.st_mtime_ns))


def put_another_plan_in_its_place(cache: EngineCache, plan: CachedPlan) -> None:
    other = plans.store(cache, 2)
    os.replace(other.plan, plan.plan)
    os.replace(sidecar(other), sidecar(plan))


def put_another_plans_bytes_in_its_place(cache: EngineCache, plan: CachedPlan) -> None:
    os.replace(plans.store(cache, 2).plan, plan.plan)


def write(text: str) -> Callable[[EngineCache, CachedPlan], object]:
    return lambda cache, plan: sidecar(plan).write_text(text)


def truncate(cache: EngineCache, plan: CachedPlan) -> None:
    os.truncate(plan.plan, 400)


DAMAGES: dict[str, tuple[Callable[[EngineCache, CachedPlan], object], str]] = {
    "a flipped byte": (flip_a_byte, "its SHA-256 is not its record's"),
    "a truncated plan": (truncate, "it has 400 bytes, expected 1000"),
    "no plan": (lambda cache, plan: plan.plan.unlink(), "its .plan is missing"),
    "a folder for a plan": (lambda cache, plan: (plan.plan.unlink(), plan.plan.mkdir()), "its .plan is missing"),
    "no record": (lambda cache, plan: sidecar(plan).unlink(), "its .json is missing"),
    "a truncated record": (lambda cache, plan: os.truncate(sidecar(plan), 700), "not JSON"),
    "deep brackets for a record": (write("[" * 200_000), "not JSON"),
    "a long record": (write(" " * (5 << 20) + "{}"), "bytes, which no record has"),
    "another program's JSON": (write('{"version": 3}'), "the field 'key' is missing"),
    "another plan and record": (put_another_plan_in_its_place, "it is another plan"),
    "another plan": (put_another_plans_bytes_in_its_place, "its SHA-256 is not"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_not_used_and_can_be_built_again(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    stored = plans.store(cache, 1)
    assert cache.find(STEM, KEY) == stored
    apply, reason = DAMAGES[damage]
    apply(cache, stored)
    with caplog.at_level(logging.WARNING):
        assert cache.find(STEM, KEY) is None
    (record,) = (record for record in caplog.records if "is not used" in record.message)
    assert str(stored.plan) in record.message
    assert reason in record.message
    assert not any(name.startswith(stored.name) for name in files(cache))
    assert plans.store(cache, 1) == stored
    assert cache.find(STEM, KEY) == stored


def test_a_damaged_plan_is_replaced_by_the_holder_of_its_lock(cache: EngineCache) -> None:
    stored = plans.store(cache, 1)
    truncate(cache, stored)
    with cache.building(STEM, KEY) as building:
        assert cache.find(STEM, KEY) is None
        made = building.folder / "engine.plan"
        made.write_bytes(plans.content_of(1))
        assert building.commit(made, stored.record) == stored
    assert cache.find(STEM, KEY) == stored


def test_a_plan_is_hashed_once_by_a_process(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    real = cache_entries.file_sha256
    monkeypatch.setattr(cache_entries, "file_sha256", lambda path: hashed.append(path) or real(path))
    stored = plans.store(cache, 1)
    for _ in range(3):
        assert EngineCache(cache.folder).find(STEM, KEY) == stored
    assert hashed == []  # storing it was the one time
    os.utime(stored.plan)
    for _ in range(3):
        assert cache.find(STEM, KEY) == stored
    assert hashed == [stored.plan]


def test_only_the_plan_that_a_record_describes_is_stored(cache: EngineCache) -> None:
    content = plans.content_of(1)
    for record in (plans.record_of(content, plans.key_of(2)), plans.record_of(b"other", KEY)):
        with cache.building(STEM, KEY) as building:
            made = building.folder / "engine.plan"
            made.write_bytes(content)
            with pytest.raises(ValueError, match="its record's key, size and SHA-256 are"):
                building.commit(made, record)
    assert files(cache) == []


def test_plans_are_evicted_in_the_order_in_which_they_were_used(cache: EngineCache) -> None:
    for number in (1, 2, 3):
        plans.store(cache, number)
        set_used(cache, number, 1000.0 + number)
    size = sum(entry.bytes for entry in cache.scan()) // 3
    assert cache.find(STEM, plans.key_of(1)) is not None  # used now, so that 2 is the oldest
    small = EngineCache(cache.folder, limit_bytes=3 * size + size // 2)
    plans.store(small, 4)
    assert numbers(cache) == {1, 3, 4}
    plans.store(EngineCache(cache.folder, limit_bytes=2 * size + size // 2), 5)
    assert len(numbers(cache)) == 2
    assert 5 in numbers(cache)
    assert 3 not in numbers(cache)


def test_the_plan_just_stored_is_never_evicted(cache: EngineCache) -> None:
    plans.store(cache, 1)
    plans.store(EngineCache(cache.folder, limit_bytes=10), 2)
    assert numbers(cache) == {2}
    unlimited = EngineCache(cache.folder, limit_bytes=None)
    plans.store(unlimited, 3)
    assert numbers(cache) == {2, 3}


def test_damaged_plans_are_evicted_first(cache: EngineCache) -> None:
    plans.store(cache, 1)
    set_used(cache, 1, 1000.0)
    truncate(cache, plans.store(cache, 2))
    plans.store(EngineCache(cache.folder, limit_bytes=5500), 3)
    assert numbers(cache) == {1, 3}


def test_a_plan_whose_lock_is_held_is_not_evicted(cache: EngineCache) -> None:
    plans.store(cache, 1)
    set_used(cache, 1, 1000.0)
    plans.store(cache, 2)
    with cache.building(STEM, plans.key_of(1)):
        plans.store(EngineCache(cache.folder, limit_bytes=10), 3)
        assert numbers(cache) == {1, 3}
        with pytest.raises(EngineCacheError, match=f"process {os.getpid()} is building it"):
            cache.remove(f"{STEM}_{KEY[:8]}")
    cache.remove(f"{STEM}_{KEY[:8]}")
    assert numbers(cache) == {3}


def test_pruning_by_age_by_size_or_everything(cache: EngineCache) -> None:
    for number in (1, 2, 3, 4):
        plans.store(cache, number)
    set_used(cache, 1, 1000.0)
    set_used(cache, 2, 2000.0)
    week = 7 * 86400.0
    pruned = cache.prune(older_than=week, dry_run=True)
    assert [entry.digits for entry in pruned.removed] == sorted(plans.key_of(number)[:8] for number in (1, 2))
    assert numbers(cache) == {1, 2, 3, 4}
    assert len(cache.prune(older_than=week).removed) == 2
    assert numbers(cache) == {3, 4}
    set_used(cache, 4, 3000.0)
    cache.prune(limit_bytes=4500)
    assert numbers(cache) == {3}
    assert cache.prune() == cache.prune(limit_bytes=1 << 30)
    assert numbers(cache) == {3}
    cache.prune(everything=True)
    assert numbers(cache) == set()
    assert plans.store(cache, 3).plan.is_file()


def test_files_compiled_from_a_plan_are_counted_and_removed_with_it(cache: EngineCache) -> None:
    kept, left = plans.store(cache, 1), plans.store(cache, 2)
    before = {entry.name: entry.bytes for entry in cache.scan()}
    for plan in (kept, left):
        compiled_file(plan.plan).write_bytes(bytes(100))
    assert {entry.name: entry.bytes - 100 for entry in cache.scan()} == before
    cache.remove(left.name)
    assert compiled_file(kept.plan).stat().st_size == 100
    assert not left.plan.parent.exists()


def test_removing_an_unknown_plan_is_an_error(cache: EngineCache) -> None:
    plans.store(cache, 1)
    for name in ("nothing", "../engines", ""):
        with pytest.raises(EngineCacheError, match="has no plan"):
            cache.remove(name)


def test_a_folder_with_other_files_is_never_changed(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in ("model_20240101.plan", "report_20240101.json", "notes.txt")]
    for path in mine:
        path.write_text("keep")
    cache = EngineCache(tmp_path, limit_bytes=0)
    with pytest.raises(EngineCacheError, match=r"is no engine cache: it has no CACHEDIR\.TAG, but 'model_20240101"):
        plans.store(cache, 1)
    with pytest.raises(EngineCacheError, match="nothing is removed"):
        cache.prune(everything=True)
    with pytest.raises(EngineCacheError, match="nothing is removed"):
        cache.remove("model_20240101")
    assert cache.find("model", "20240101" + "0" * 56) is None
    assert sorted(tmp_path.iterdir()) == sorted(mine)


def test_a_new_cache_has_the_tag_that_backup_programs_look_for(cache: EngineCache) -> None:
    plans.store(cache, 1)
    assert (cache.folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def set_used(cache: EngineCache, number: int, time: float) -> None:
    name = f"{STEM}_{plans.key_of(number)[:8]}"
    os.utime(cache.folder / name / f"{name}.json", (time, time))


def numbers(cache: EngineCache) -> set[int]:
    digits = {plans.key_of(number)[:8]: number for number in range(10)}
    return {digits[entry.digits] for entry in cache.scan()}


def as_an_earlier_version_stored_it(cache: EngineCache, plan: CachedPlan) -> Path:
    """Both files in the cache folder itself; files that a runtime compiled in one folder for all plans."""
    for file in (plan.plan, sidecar(plan)):
        file.rename(cache.folder / file.name)
    plan.plan.parent.rmdir()
    (cache.folder / "compiled").mkdir(exist_ok=True)
    (cache.folder / "compiled" / f"{plan.name}.bin").write_bytes(bytes(100))
    return cache.folder / plan.plan.name


def test_plans_that_an_earlier_version_stored_are_found_replaced_and_removed(cache: EngineCache) -> None:
    stored = plans.store(cache, 1)
    old = as_an_earlier_version_stored_it(cache, stored)
    assert cache.find(STEM, KEY) == CachedPlan(old, stored.record)
    assert [(entry.name, entry.plan, entry.state) for entry in cache.scan()] == [(stored.name, old, "whole")]
    assert plans.store(cache, 1) == stored
    assert not old.exists()
    old = as_an_earlier_version_stored_it(cache, stored)
    os.truncate(old, 400)
    assert cache.find(STEM, KEY) is None
    assert not old.exists()
    as_an_earlier_version_stored_it(cache, plans.store(cache, 1))
    assert [entry.name for entry in cache.prune(everything=True).removed] == [stored.name]
    assert sorted(path.name for path in cache.folder.rglob("*") if path.is_file()) == [KEY[:8], "CACHEDIR.TAG"]
