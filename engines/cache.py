"""The cache of plans: lookup by key, atomic writes, eviction of the least recently used plans.

A cache contains one folder for each plan, whose readable name ends in the first eight digits of the plan's key; see
`wavernn_trt.engines.cache_entries`. Beside them are ``CACHEDIR.TAG``, ``locks/``, ``.building-…`` during builds, and
``timing/`` with regular TensorRT's kernel timings.
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
"""Bytes; an unrolled decoder of 1024 steps takes 300 MB, a fused one a few MB."""


class Building:
    """A build in progress that holds its key's lock; from `EngineCache.building`."""

    def __init__(self, cache: EngineCache, name: str, key: str, folder: Path) -> None:
        self._cache, self._name, self._key = cache, name, key
        self.folder = folder
        """The builder's temporary folder; removed when the build ends or fails."""

    def commit(self, plan_file: Path, record: PlanRecord) -> CachedPlan:
        """Moves a finished plan into the cache and evicts others if the cache is full.

        Args:
            plan_file: a file in `folder`.
            record: the plan's record.

        Raises:
            EngineCacheError: it cannot be written.
            ValueError: the record describes another plan.
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
    """Result of `EngineCache.prune`."""

    removed: tuple[CacheEntry, ...]
    kept: tuple[tuple[CacheEntry, str], ...]
    """Plans that could not be removed, with the reason."""
    left_overs: int
    """Removed temporary folders of builds that were killed."""


class EngineCache:
    """A folder of plans."""

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = DEFAULT_LIMIT) -> None:
        """Opens a cache; files are read and created on first use.

        Args:
            folder: the cache; ``None`` is the user's, see `default_folder`.
            limit_bytes: total size above which the least recently used plans are evicted; ``None`` is no limit.
        """
        self.folder = Path(os.path.abspath(default_folder() if folder is None else folder))
        self.limit_bytes = limit_bytes

    def find(self, stem: str, key: str) -> CachedPlan | None:
        """Returns the plan of a key after comparing its size and SHA-256 with its record; ``None`` if there is none.

        A plan that was stored under another stem, for example before its model directory was renamed, is found too. A
        damaged plan is removed, with a warning that gives the reason.

        Args:
            stem: the readable part of the name.
            key: 64 hexadecimal digits.

        Raises:
            EngineCacheError: the path is not a folder, or cannot be read.
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
                with suppress(OSError):  # a read-only cache still works
                    _mark_used(entry.sidecar)
                return CachedPlan(entry.plan, entry.record)
        return None

    @contextmanager
    def building(self, stem: str, key: str, waiting: Callable[[str], None] | None = None) -> Iterator[Building]:
        """Holds a key's lock and yields a build with a temporary folder.

        Call `find` again once the lock is held: its last holder may have built the plan.

        Args:
            stem: the readable part of the name.
            key: 64 hexadecimal digits.
            waiting: called once with a message if another process builds the same plan; by default it is logged as a
                warning.

        Raises:
            EngineCacheError: the folder cannot be created or written, or its disk becomes full.
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
        """Returns all plans in the cache by name, damaged ones too.

        Args:
            verify: compare every plan's SHA-256, which reads all files.

        Raises:
            EngineCacheError: the path is not a folder, or cannot be read.
        """
        found = (read_entry(self.folder, name, verify=verify) for name in self._names())
        return [entry for entry in found if entry is not None]

    def remove(self, name: str) -> None:
        """Removes one plan.

        Raises:
            EngineCacheError: there is no plan of that name, it is being built, or it cannot be removed.
        """
        entry = read_entry(self.folder, name, verify=False) if name in self._names() else None
        if entry is None:
            raise EngineCacheError(f"{self.folder} has no plan {name!r}; 'wavernn-trt engines list' lists all")
        self._require_cache()
        if (obstacle := _discard(entry)) is not None:
            raise EngineCacheError(f"{entry.plan} cannot be removed: {obstacle}")

    def prune(
        self,
        limit_bytes: int | None = None,
        older_than: float | None = None,
        *,
        everything: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Removes damaged plans, remains of killed builds, and the selected plans.

        Args:
            limit_bytes: remove the least recently used plans until the total size is at most this.
            older_than: remove plans that were last used more than this many seconds ago.
            everything: remove all plans.
            dry_run: remove nothing.

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
        removed = tuple(entry for entry, obstacle in tried if obstacle is None)
        kept = tuple((entry, obstacle) for entry, obstacle in tried if obstacle is not None)
        return Pruned(removed, kept, _sweep(self.folder, dry_run=dry_run))

    def _removed_if_damaged(self, entry: CacheEntry, key: str) -> CacheEntry | None:
        """Reads a plan that is not whole again under its lock, and removes it if it is still damaged.

        Returns:
            ``None`` where another process holds the lock, which may be storing or removing this plan.
        """
        again: CacheEntry | None = entry
        obstacle = ""
        if entry.state == "damaged" and is_cache(self.folder):
            try:
                with try_lock_key(self.folder, entry.digits) as held:
                    again = read_entry(self.folder, entry.name, key=key, verify=True) if held else None
                    if again is not None and again.state == "damaged":
                        remove(self.folder, entry.name)
            except OSError as error:
                obstacle = f"; it cannot be removed: {error}"
        if again is not None and again.state != "whole":
            logger.warning("%s is not used: %s%s", entry.plan, again.reason, obstacle)
        return again

    def _names(self) -> list[str]:
        require_folder(self.folder)
        with explained(self.folder):
            return names_in(self.folder)

    def _require_cache(self) -> None:
        if not is_cache(self.folder):
            raise EngineCacheError(f"{self.folder} is no engine cache, it has no {TAG}; nothing is removed from it")

    def _evict(self, stored: str) -> None:
        """Evicts plans after one was stored; failures are logged."""
        if self.limit_bytes is None:
            return
        entries = self.scan()
        room = self.limit_bytes - sum(entry.bytes for entry in entries if entry.name == stored)
        for entry in _beyond([entry for entry in entries if entry.name != stored], room):
            obstacle = _discard(entry)
            done = "is evicted" if obstacle is None else f"is not evicted, {obstacle}"
            logger.info("%s (%s) %s", entry.plan, readable_size(entry.bytes), done)


def _mark_used(sidecar: Path) -> None:
    now = time.time_ns()
    try:
        # A file system's own clock may advance only every few milliseconds, too coarse to order uses.
        os.utime(sidecar, ns=(now, now))
    except PermissionError:  # for another user's file only the present time is allowed
        os.utime(sidecar)


def _beyond(entries: Iterable[CacheEntry], limit: int) -> list[CacheEntry]:
    """Returns the plans to remove until the rest fits: damaged ones first, then the least recently used."""
    ordered = sorted(entries, key=lambda entry: (entry.state != "damaged", entry.used))
    total, chosen = sum(entry.bytes for entry in ordered), []
    for entry in ordered:
        if total <= limit:
            break
        total -= entry.bytes
        chosen.append(entry)
    return chosen


def _discard(entry: CacheEntry, *, dry_run: bool = False) -> str | None:
    """Removes a plan unless it was used or replaced since ``entry`` was read; returns the reason if it could not."""
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
    """Removes temporary folders of a key, whose lock the caller holds; returns their number."""
    left = list(folder.glob(f"{BUILDING}{digits}-*"))
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def _sweep(folder: Path, *, dry_run: bool) -> int:
    """Removes temporary folders of killed builds of any key; returns their number."""
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
