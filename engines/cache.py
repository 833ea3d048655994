"""The cache of plans: found again by key, stored whole or not at all, evicted when there are too many.

A cache folder has a folder for each plan, whose name is readable and ends in the first eight digits of the plan's key;
see `wavernn_trt.engines.cache_entries`. Beside them are ``CACHEDIR.TAG``, ``locks/``, ``.building-…`` folders while
plans are being built, and ``timing/`` with what regular TensorRT measured.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.engines.cache_entries import (
    DIGITS,
    CachedPlan,
    CacheEntry,
    names_in,
    plan_name,
    read_entry,
    remove,
    store,
)
from wavernn_trt.engines.cache_folder import (
    BUILDING,
    TAG,
    EngineCacheError,
    default_folder,
    explain,
    explained,
    holder,
    is_cache,
    is_lack_of_room,
    is_locked,
    lock_key,
    make_cache,
    readable_size,
    require_folder,
    try_lock_key,
)
from wavernn_trt.engines.plan_record import PlanRecord
from wavernn_trt.export.model_directory import file_sha256

__all__ = ["DEFAULT_LIMIT", "Building", "CachedPlan", "EngineCache", "EngineCacheError", "Pruned"]

logger = logging.getLogger(__name__)

DEFAULT_LIMIT = 20 << 30
"""Bytes. An unrolled decoder of 1024 steps is 300 MB, a fused one a few: this holds many of either."""


class Building:
    """A build in progress, which holds its key's lock."""

    def __init__(self, cache: EngineCache, name: str, key: str, folder: Path) -> None:
        """Made by `EngineCache.building`."""
        self._cache, self._name, self._key = cache, name, key
        self.folder = folder
        """For the builder's files; removed with all that is in it when the build ends, in whatever way."""

    def commit(self, plan_file: Path, record: PlanRecord) -> CachedPlan:
        """Moves a finished plan into the cache, and makes room for it there.

        Args:
            plan_file: a file in `folder`.
            record: describes it.

        Raises:
            EngineCacheError: it cannot be written.
            ValueError: the record is not this plan's.
        """
        described = (record.key, record.plan_bytes, record.plan_sha256)
        found = (self._key, plan_file.stat().st_size, file_sha256(plan_file))
        if found != described:
            raise ValueError(f"{self._name}: its record's key, size and SHA-256 are {described}, found {found}")
        with explained(self._cache.folder, record.plan_bytes):
            plan = store(self._cache.folder, self._name, plan_file, record, self.folder)
        self._cache._evict(self._name)
        return plan


@dataclass(frozen=True)
class Pruned:
    """What pruning has removed, or would remove."""

    removed: tuple[CacheEntry, ...]
    kept: tuple[tuple[CacheEntry, str], ...]
    """What should have gone and could not, and why."""
    left_overs: int
    """Folders of builders that have died."""


class EngineCache:
    """A folder of plans."""

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = DEFAULT_LIMIT) -> None:
        """Nothing is read or made before it is needed.

        Args:
            folder: the cache; ``None`` is the user's own, see `default_folder`.
            limit_bytes: plans that were not used for longest go when all together are larger; ``None`` keeps them.
        """
        self.folder = Path(os.path.abspath(default_folder() if folder is None else folder))
        self.limit_bytes = limit_bytes

    def find(self, stem: str, key: str) -> CachedPlan | None:
        """Gives a plan, whose size and SHA-256 have been compared with its record's.

        The key decides: a plan that was stored under another stem, as when its model directory had another name, is
        found too. A damaged one is removed, with a warning that gives the reason.

        Args:
            stem: the readable part of the name.
            key: 64 hexadecimal digits.

        Raises:
            EngineCacheError: something else is in the folder's place, or it cannot be read.
        """
        _require_key(key)
        own = plan_name(stem, key)
        others = [name for name in self._names() if name.endswith(own[-DIGITS - 1 :]) and name != own]
        for name in (own, *others):
            entry = read_entry(self.folder, name, key=key, verify=True)
            if entry is None or (name != own and entry.record is not None and entry.record.key != key):
                continue
            if entry.state != "whole":
                entry = self._removed_if_damaged(entry, key)
            if entry is not None and entry.state == "whole" and entry.record is not None:
                with suppress(OSError):  # a cache that is read-only serves all the same
                    _mark_used(entry.sidecar)
                return CachedPlan(entry.plan, entry.record)
        return None

    @contextmanager
    def building(self, stem: str, key: str, waiting: Callable[[str], None] | None = None) -> Iterator[Building]:
        """Holds a key's lock and gives a folder to build in.

        Look again with `find` once it is held: the lock's last holder may have built the plan.

        Args:
            stem: the readable part of the name.
            key: 64 hexadecimal digits.
            waiting: called once, with whom this waits for, if another process builds the same; by default a warning is
                logged.

        Raises:
            EngineCacheError: the folder cannot be made or written, or its disk is full, also while it is used.
        """
        _require_key(key)
        require_folder(self.folder)
        digits = key[:DIGITS]
        with ExitStack() as stack:
            with explained(self.folder):
                make_cache(self.folder)
                stack.enter_context(lock_key(self.folder, digits, waiting))
                _remove_left_overs(self.folder, digits)
                folder = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{digits}-{os.getpid()}-", dir=self.folder))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                yield Building(self, plan_name(stem, key), key, folder)
            except OSError as error:
                if is_lack_of_room(error, self.folder):
                    raise explain(error, self.folder) from error
                raise

    def scan(self, *, verify: bool = False) -> list[CacheEntry]:
        """All plans in the cache, by name, damaged or not.

        Args:
            verify: compare every plan's SHA-256, which reads them all.

        Raises:
            EngineCacheError: something else is in the folder's place, or it cannot be read.
        """
        found = (read_entry(self.folder, name, verify=verify) for name in self._names())
        return [entry for entry in found if entry is not None]

    def remove(self, name: str) -> None:
        """Removes one plan.

        Raises:
            EngineCacheError: there is none of that name, it is being built, or it cannot be removed.
        """
        entry = read_entry(self.folder, name, verify=False) if name in self._names() else None
        if entry is None:
            raise EngineCacheError(
                f"{self.folder} has no plan {name!r}; 'wavernn-trt engines list' shows what is there"
            )
        self._require_cache()
        if (hindrance := _discard(entry)) is not None:
            raise EngineCacheError(f"{entry.plan} cannot be removed: {hindrance}")

    def prune(
        self,
        limit_bytes: int | None = None,
        older_than: float | None = None,
        *,
        everything: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Removes damaged plans, what died builders left, and the plans that were asked for.

        Args:
            limit_bytes: plans that were not used for longest go until the rest is no larger.
            older_than: plans that were not used for so many seconds go.
            everything: all plans go.
            dry_run: nothing is removed.

        Raises:
            EngineCacheError: the folder is not a cache, or cannot be read.
        """
        entries = self.scan()
        if self.folder.exists():
            self._require_cache()
        oldest = -1.0 if older_than is None else time.time() - older_than
        chosen = [entry for entry in entries if everything or entry.state == "damaged" or entry.used < oldest]
        if limit_bytes is not None:
            chosen += _beyond([entry for entry in entries if entry not in chosen], limit_bytes)
        tried = [(entry, _discard(entry, dry_run=dry_run)) for entry in chosen]
        removed = tuple(entry for entry, hindrance in tried if hindrance is None)
        kept = tuple((entry, hindrance) for entry, hindrance in tried if hindrance is not None)
        return Pruned(removed, kept, _sweep(self.folder, dry_run=dry_run))

    def _removed_if_damaged(self, entry: CacheEntry, key: str) -> CacheEntry | None:
        """Reads a plan that is not whole again under its lock, and removes it if it still is damaged.

        Returns:
            ``None`` where another process holds the lock: it may be storing or removing this plan.
        """
        again: CacheEntry | None = entry
        hindrance = ""
        if entry.state == "damaged" and is_cache(self.folder):
            try:
                with try_lock_key(self.folder, entry.digits) as held:
                    again = read_entry(self.folder, entry.name, key=key, verify=True) if held else None
                    if again is not None and again.state == "damaged":
                        remove(self.folder, entry.name)
            except OSError as error:
                hindrance = f"; it cannot be removed: {error}"
        if again is not None and again.state != "whole":
            logger.warning("%s is not used: %s%s", entry.plan, again.reason, hindrance)
        return again

    def _names(self) -> list[str]:
        require_folder(self.folder)
        with explained(self.folder):
            return names_in(self.folder)

    def _require_cache(self) -> None:
        if not is_cache(self.folder):
            raise EngineCacheError(f"{self.folder} is no engine cache, it has no {TAG}; nothing is removed from it")

    def _evict(self, stored: str) -> None:
        """Makes room after a plan was stored; where that does not succeed, the plan is stored all the same."""
        if self.limit_bytes is None:
            return
        entries = self.scan()
        room = self.limit_bytes - sum(entry.bytes for entry in entries if entry.name == stored)
        for entry in _beyond([entry for entry in entries if entry.name != stored], room):
            hindrance = _discard(entry)
            done = "is evicted" if hindrance is None else f"is not evicted, {hindrance}"
            logger.info("%s (%s) %s", entry.plan, readable_size(entry.bytes), done)


def _mark_used(sidecar: Path) -> None:
    now = time.time_ns()
    try:
        # File systems' own clocks tick every few milliseconds, in which several plans may be used.
        os.utime(sidecar, ns=(now, now))
    except PermissionError:  # another user's file takes the present time only
        os.utime(sidecar)


def _beyond(entries: Iterable[CacheEntry], limit: int) -> list[CacheEntry]:
    """What has to go for the rest to be no larger: damaged ones first, then those that were not used for longest."""
    ordered = sorted(entries, key=lambda entry: (entry.state != "damaged", entry.used))
    total, chosen = sum(entry.bytes for entry in ordered), []
    for entry in ordered:
        if total <= limit:
            break
        total -= entry.bytes
        chosen.append(entry)
    return chosen


def _discard(entry: CacheEntry, *, dry_run: bool = False) -> str | None:
    """Removes a plan, unless it was used or replaced since it was read (without verifying); gives what hindered it."""
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
            remove(folder, entry.name)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _remove_left_overs(folder: Path, digits: str) -> int:
    """Removes what builders of a key have left, whose lock the caller holds; gives how many they were."""
    left = list(folder.glob(f"{BUILDING}{digits}-*"))
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def _sweep(folder: Path, *, dry_run: bool) -> int:
    """Removes what died builders of any key have left; gives how many they were."""
    count = 0
    for digits in sorted({path.name.split("-")[1] for path in folder.glob(f"{BUILDING}*-*")}):
        if dry_run:
            count += 0 if is_locked(folder, digits) else len(list(folder.glob(f"{BUILDING}{digits}-*")))
            continue
        with suppress(OSError), try_lock_key(folder, digits) as held:
            count += _remove_left_overs(folder, digits) if held else 0
    return count


def _require_key(key: str) -> None:
    if re.fullmatch("[0-9a-f]{64}", key) is None:
        raise ValueError(f"key: found {key!r}, expected 64 hexadecimal digits")
