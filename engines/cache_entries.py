"""Reads, verifies, stores and removes one plan of a cache.

Each plan has its own folder with the name of its files: ``NAME/NAME.plan``, its record ``NAME/NAME.json``, and
``NAME/NAME.bin`` where a runtime has compiled it for the current GPU. The folder is created and removed by a rename, so
a reader finds a complete plan or none. Earlier versions kept the files of all plans in the cache itself; such plans are
read and removed like others.
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
"""Digits of the key at the end of a name."""

_NAME = re.compile(r"(?!\.)([\w.+-]+_[0-9a-f]{8})(\.plan|\.json)?")
_verified: dict[tuple[str, int, int, int, int, int], str] = {}
"""SHA-256 of files that this process has read, by `_identity`."""


@dataclass(frozen=True)
class CachedPlan:
    """A verified plan and its record."""

    plan: Path
    record: PlanRecord

    @property
    def name(self) -> str:
        """The plan's name in the cache."""
        return self.plan.name.removesuffix(PLAN)


@dataclass(frozen=True)
class CacheEntry:
    """A plan in the cache, complete or damaged."""

    folder: Path
    """The cache."""
    home: Path
    """The plan's folder; the cache itself where an earlier version stored the plan."""
    name: str
    record: PlanRecord | None
    """``None`` where it is missing or damaged."""
    bytes: int
    """Size of plan, record and compiled file together."""
    used: float
    """Time of the last use, seconds since 1970."""
    state: Literal["whole", "damaged", "unreadable"]
    """``unreadable``: this user may not read it; it may be whole."""
    reason: str | None = None
    """The fault, for messages; ``None`` where it is whole."""

    @property
    def plan(self) -> Path:
        """The plan's file."""
        return self.home / (self.name + PLAN)

    @property
    def sidecar(self) -> Path:
        """The record's file. Its modification time is the time of the last use."""
        return self.home / (self.name + SIDECAR)

    @property
    def digits(self) -> str:
        """The first digits of its key."""
        return self.name[-DIGITS:]


def plan_name(stem: str, key: str) -> str:
    """Returns the name of a plan's folder and of its files without suffixes."""
    return f"{clean_name(stem)}_{key[:DIGITS]}"


def compiled_file(plan: Path) -> Path:
    """Returns the path for kernels that a runtime compiled from a plan for one GPU; removed with the plan."""
    return plan.with_suffix(COMPILED)


def names_in(folder: Path) -> list[str]:
    """Returns the sorted names of all plans in a cache, damaged ones too.

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
        folder: the cache, or any folder that contains the two files.
        name: one of `names_in`.
        key: the expected key; by default the digits in the name are compared.
        verify: compare the plan's SHA-256, not only its size.

    Returns:
        ``None`` if there is nothing of that name.
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
    """Moves a plan and its record into the cache; replaces a plan of that name. The caller holds the key's lock.

    Args:
        folder: the cache.
        name: the plan's.
        plan_file: the plan, whose SHA-256 is the record's; in ``workplace``.
        record: describes it.
        workplace: the caller's temporary folder on the cache's file system.

    Raises:
        OSError: it cannot be written; the cache then has no plan of that name.
    """
    finished = workplace / name
    finished.mkdir()
    os.replace(plan_file, finished / (name + PLAN))
    write_record(finished / (name + SIDECAR), record)
    _sync(finished / (name + PLAN))
    remove(folder, name)
    os.rename(finished, folder / name)
    with suppress(OSError):  # some file systems cannot synchronise a folder
        _sync(folder)
    stored = CachedPlan(folder / name / (name + PLAN), record)
    _verified[_identity(stored.plan)] = record.plan_sha256
    return stored


def remove(folder: Path, name: str) -> None:
    """Removes a plan's files, in the present and in earlier layouts. The caller holds the key's lock.

    Raises:
        OSError: they cannot be removed.
    """
    own = folder / name
    if own.is_dir():
        # Renamed first, so that no reader finds half a plan; remains of a killed process are removed like a build's.
        doomed = folder / f"{BUILDING}{name[-DIGITS:]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        os.rename(own, doomed)
        shutil.rmtree(doomed)
    # The record first: a plan without a record is never used.
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
    # The inode's change time also reveals changes after which the modification time was restored.
    stat = plan.stat()
    return str(plan), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
