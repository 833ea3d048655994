"""What leaves a cache: plans that are damaged or were not used for long, and folders of builders that have died."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.engines.cache_entries import CacheEntry, read_entry
from wavernn_trt.engines.cache_lock import BUILDING, holder, is_locked, try_lock_key


@dataclass(frozen=True)
class Pruned:
    """What pruning has removed, or would remove."""

    removed: tuple[CacheEntry, ...]
    kept: tuple[tuple[CacheEntry, str], ...]
    """What should have gone and could not, and why."""
    left_overs: int
    """Folders of builders that have died."""


def beyond(entries: Iterable[CacheEntry], limit: int) -> list[CacheEntry]:
    """What has to go for the rest to be no larger: damaged ones first, then those that were not used for longest."""
    ordered = sorted(entries, key=lambda entry: (entry.state != "damaged", entry.used))
    total, chosen = sum(entry.bytes for entry in ordered), []
    for entry in ordered:
        if total <= limit:
            break
        total -= entry.bytes
        chosen.append(entry)
    return chosen


def discard(entry: CacheEntry, *, dry_run: bool = False) -> str | None:
    """Removes a plan, unless it was used or replaced since it was looked at.

    Args:
        entry: as `read_entry` gave it without verifying.
        dry_run: only see whether it could be removed.

    Returns:
        What hindered it, or ``None``.
    """
    folder, digits = entry.folder, entry.digits
    busy = f"{holder(folder, digits)} is building it"
    if dry_run:
        writable = os.access(folder, os.W_OK)
        return busy if is_locked(folder, digits) else None if writable else "this user may not write there"
    try:
        with try_lock_key(folder, digits) as held:
            if not held:
                return busy
            again = read_entry(folder, entry.name, verify=False)
            if again is not None and again != entry:
                return "it was used just now"
            _unlink(entry)
    except OSError as error:
        return error.strerror or str(error)
    return None


def look_again(entry: CacheEntry, key: str) -> CacheEntry | None:
    """Tells a damaged plan, which it removes, from one that somebody was just storing or removing.

    Args:
        entry: as `read_entry` gave it.
        key: what the plan's key must be.

    Returns:
        The plan as it is while nobody else can change it; ``None`` if somebody has its lock.

    Raises:
        EngineCacheError: filelock is not installed.
        OSError: it cannot be locked or removed.
    """
    with try_lock_key(entry.folder, entry.digits) as held:
        again = read_entry(entry.folder, entry.name, key=key, verify=True) if held else None
        if again is not None and again.state == "damaged":
            _unlink(again)
        return again


def remove_left_overs(folder: Path, digits: str) -> int:
    """Removes what builders of a key have left, whose lock the caller holds; gives how many they were."""
    left = list(folder.glob(f"{BUILDING}{digits}-*"))
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def sweep(folder: Path, *, dry_run: bool = False) -> int:
    """Removes what died builders of any key have left; gives how many they were."""
    count = 0
    for digits in sorted({path.name.split("-")[1] for path in folder.glob(f"{BUILDING}*-*")}):
        if dry_run:
            count += 0 if is_locked(folder, digits) else len(list(folder.glob(f"{BUILDING}{digits}-*")))
            continue
        with suppress(OSError), try_lock_key(folder, digits) as held:
            count += remove_left_overs(folder, digits) if held else 0
    return count


def _unlink(entry: CacheEntry) -> None:
    # The manifest first: a plan without one is never used.
    entry.sidecar.unlink(missing_ok=True)
    entry.plan.unlink(missing_ok=True)
    entry.compiled.unlink(missing_ok=True)
