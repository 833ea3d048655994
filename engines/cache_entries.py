"""A plan in a cache: its files, whether they are whole, and how they come and go.

Each plan has a folder of its own, named like its files: ``NAME/NAME.plan``, ``NAME/NAME.json`` which describes it, and
``NAME/NAME.bin`` where a runtime has compiled it for the GPU at hand. The folder appears and disappears by a rename, so
that a reader finds all of a plan or nothing. Earlier versions kept the files of all plans in the cache itself; such
plans are read, and removed, like others.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wavernn_trt.engines.cache_folder import BUILDING
from wavernn_trt.engines.plan_record import PlanRecord, clean_name, read_record, write_record
from wavernn_trt.export.config import ConfigError
from wavernn_trt.export.model_directory import file_sha256

PLAN = ".plan"
SIDECAR = ".json"
COMPILED = ".bin"
DIGITS = 8
"""Of a key, at the end of a name."""

_NAME = re.compile(r"(?!\.)([\w.+-]+_[0-9a-f]{8})(\.plan|\.json)?")
_verified: dict[tuple[str, int, int, int, int, int], str] = {}
"""SHA-256 of files that this process has read, by path and everything that changes when a file does."""


@dataclass(frozen=True)
class CachedPlan:
    """A whole plan: its file, and the record that describes it."""

    plan: Path
    record: PlanRecord

    @property
    def name(self) -> str:
        """Its name in the cache."""
        return self.plan.name.removesuffix(PLAN)


@dataclass(frozen=True)
class CacheEntry:
    """A plan with its record, or what is left of the two."""

    folder: Path
    """The cache."""
    home: Path
    """The plan's own folder; that of the cache where an earlier version stored it."""
    name: str
    record: PlanRecord | None
    """``None`` where it is missing or damaged."""
    bytes: int
    """Of both files, and of what was compiled from the plan."""
    used: float
    """When it was last used, in seconds since 1970."""
    state: Literal["whole", "damaged", "unreadable"]
    """``unreadable``: the file system does not let this user see it; it may be whole."""
    reason: str | None = None
    """Why it is not whole."""

    @property
    def plan(self) -> Path:
        """The plan."""
        return self.home / (self.name + PLAN)

    @property
    def sidecar(self) -> Path:
        """Its record. When it was modified is when the plan was last used."""
        return self.home / (self.name + SIDECAR)

    @property
    def digits(self) -> str:
        """The first digits of its key."""
        return self.name[-DIGITS:]


def plan_name(stem: str, key: str) -> str:
    """The name of a plan's folder, and of its files without their suffixes."""
    return f"{clean_name(stem)}_{key[:DIGITS]}"


def compiled_file(plan: Path) -> Path:
    """Where a runtime may keep what it compiled from a plan for one GPU; leaves the cache with the plan."""
    return plan.with_suffix(COMPILED)


def names_in(folder: Path) -> list[str]:
    """The names of plans in a cache, in order, damaged ones too.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = {match[1] for file in os.listdir(folder) if (match := _NAME.fullmatch(file))}
    except FileNotFoundError:
        return []
    return sorted(found)


def read_entry(folder: Path, name: str, *, key: str | None = None, verify: bool) -> CacheEntry | None:
    """Reads one plan's record and compares the plan with it.

    Args:
        folder: the cache, or any folder that has the two files in it.
        name: one of `names_in`.
        key: what the plan's key must be; without it, the digits in its name are compared.
        verify: compare the plan's SHA-256, and not just its size.

    Returns:
        ``None`` if nothing of that name is there.
    """
    own = folder / name
    entry = CacheEntry(folder, own if own.is_dir() else folder, name, None, 0, 0.0, "damaged")
    plan, sidecar = entry.plan, entry.sidecar
    try:
        stats = {path: path.stat() for path in (plan, sidecar, compiled_file(plan)) if path.exists()}
        stamp = stats.get(sidecar) or stats.get(plan)
        if stamp is None:
            return None
        size = sum(one.st_size for one in stats.values())
        entry = dataclasses.replace(entry, bytes=size, used=stamp.st_mtime)
        if sidecar not in stats:
            return dataclasses.replace(entry, reason="its .json is missing")
        record = read_record(sidecar)
        entry = dataclasses.replace(entry, record=record)
        wanted = entry.digits if key is None else key
        if not record.key.startswith(wanted):
            return dataclasses.replace(entry, reason=f"it is another plan, of key {record.key}, expected {wanted}")
        reason = _damage(plan, record, verify)
    except ConfigError as error:
        return dataclasses.replace(entry, reason=f"its .json does not describe a plan: {error}")
    except FileNotFoundError:  # another process has removed it in the meantime
        return dataclasses.replace(entry, reason="a file is missing")
    except OSError as error:
        return dataclasses.replace(entry, state="unreadable", reason=f"cannot be read: {error.strerror or error}")
    return dataclasses.replace(entry, state="damaged" if reason else "whole", reason=reason)


def store(folder: Path, name: str, plan_file: Path, record: PlanRecord, workplace: Path) -> CachedPlan:
    """Moves a plan and its record into the cache, in place of any of that name; the caller holds its key's lock.

    Args:
        folder: the cache.
        name: the plan's.
        plan_file: the plan, whose SHA-256 is the record's; in ``workplace``.
        record: describes it.
        workplace: a folder for the caller's files, on the cache's file system.

    Raises:
        OSError: it cannot be written; nothing of that name is in the cache then.
    """
    finished = workplace / name
    finished.mkdir()
    os.replace(plan_file, finished / (name + PLAN))
    write_record(finished / (name + SIDECAR), record)
    _sync(finished / (name + PLAN))
    remove(folder, name)
    os.rename(finished, folder / name)
    with suppress(OSError):  # not every file system lets a folder be synchronised
        _sync(folder)
    stored = CachedPlan(folder / name / (name + PLAN), record)
    _verified[_identity(stored.plan)] = record.plan_sha256
    return stored


def remove(folder: Path, name: str) -> None:
    """Removes all of a plan's files, as this version stores them and as earlier ones did; needs its key's lock.

    Raises:
        OSError: they cannot be removed.
    """
    own = folder / name
    if own.is_dir():
        # Renamed first, so that no reader finds half of it; what a killed process leaves is swept like a killed build.
        doomed = folder / f"{BUILDING}{name[-DIGITS:]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        os.rename(own, doomed)
        shutil.rmtree(doomed)
    # The record first: a plan without one is never used.
    for file in (name + SIDECAR, name + PLAN, name + COMPILED, f"compiled/{name}{COMPILED}"):
        (folder / file).unlink(missing_ok=True)


def _damage(plan: Path, record: PlanRecord, verify: bool) -> str | None:
    if not plan.is_file():
        return "its .plan is missing, beside its .json"
    size = plan.stat().st_size
    if size != record.plan_bytes:
        return f"it has {size} bytes, expected {record.plan_bytes}"
    if verify and _sha256(plan) != record.plan_sha256:
        return "its SHA-256 is not its record's"
    return None


def _sha256(plan: Path) -> str:
    identity = _identity(plan)
    if identity not in _verified:
        _verified[identity] = file_sha256(plan)
    return _verified[identity]


def _identity(plan: Path) -> tuple[str, int, int, int, int, int]:
    # The inode's change time shows changes that a restored modification time would hide.
    stat = plan.stat()
    return str(plan), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
