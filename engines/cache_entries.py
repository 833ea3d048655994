"""What lies in a cache: names, sidecars, and whether a plan is the one that its sidecar describes."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wavernn_trt.engines.manifest import PlanManifest, clean_name, read_manifest
from wavernn_trt.export.config import ConfigError
from wavernn_trt.export.model_directory import file_sha256

PLAN = ".plan"
SIDECAR = ".json"
COMPILED = "compiled"
"""The folder, inside a cache, of what a runtime compiled from its plans."""
DIGITS = 8
"""Of a key, at the end of a name."""

_NAME = re.compile(r"([\w.+-]+_[0-9a-f]{8})\.(?:plan|json)")
_verified: dict[tuple[str, int, int, int, int, int], str] = {}
"""SHA-256 of files that this process has read, by path and everything that changes when a file does."""


@dataclass(frozen=True)
class CacheEntry:
    """A plan with its sidecar, or what is left of the two."""

    folder: Path
    name: str
    manifest: PlanManifest | None
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
        return self.folder / (self.name + PLAN)

    @property
    def sidecar(self) -> Path:
        """Its manifest. When it was modified is when the plan was last used."""
        return self.folder / (self.name + SIDECAR)

    @property
    def compiled(self) -> Path:
        """What a runtime compiled from it, if any did."""
        return compiled_file(self.plan)

    @property
    def digits(self) -> str:
        """The first digits of its key."""
        return self.name[-DIGITS:]


def plan_name(stem: str, key: str) -> str:
    """What a plan and its sidecar are called, without their suffixes."""
    return f"{clean_name(stem)}_{key[:DIGITS]}"


def compiled_file(plan: Path) -> Path:
    """Where a runtime may keep what it compiled from a plan for one GPU; leaves the cache with the plan."""
    return plan.parent / COMPILED / plan.with_suffix(".bin").name


def names_in(folder: Path) -> list[str]:
    """The names of plans in a folder, in order, damaged ones too; files that are called otherwise are not ours.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = {match[1] for file in os.listdir(folder) if (match := _NAME.fullmatch(file)) and file[0] != "."}
    except FileNotFoundError:
        return []
    return sorted(found)


def read_entry(folder: Path, name: str, *, key: str | None = None, verify: bool) -> CacheEntry | None:
    """Looks at one plan.

    Args:
        folder: the cache.
        name: one of `names_in`.
        key: what the plan's key must be; without it, the digits in its name are compared.
        verify: compare the plan's SHA-256, and not just its size.

    Returns:
        ``None`` if nothing of that name is there.
    """
    entry = CacheEntry(folder, name, None, 0, 0.0, "damaged")
    try:
        sizes = {path: path.stat() for path in (entry.plan, entry.sidecar) if path.exists()}
        if not sizes:
            return None
        stamp = sizes.get(entry.sidecar) or sizes[entry.plan]
        size = sum(one.st_size for one in sizes.values())
        if entry.compiled.exists():
            size += entry.compiled.stat().st_size
        entry = dataclasses.replace(entry, bytes=size, used=stamp.st_mtime)
        if entry.sidecar not in sizes:
            return dataclasses.replace(
                entry, reason="it has no manifest: storing it was cut off, or somebody removed it"
            )
        manifest = read_manifest(entry.sidecar)
        entry = dataclasses.replace(entry, manifest=manifest)
        wanted = entry.digits if key is None else key
        if not manifest.key.startswith(wanted):
            return dataclasses.replace(entry, reason=f"it is another plan, of key {manifest.key}, expected {wanted}")
        reason = _damage(entry.plan, manifest, verify)
    except ConfigError as error:
        return dataclasses.replace(entry, reason=f"its manifest is no manifest: {error}")
    except FileNotFoundError:  # removed by somebody else in the meantime
        return dataclasses.replace(entry, reason="a file is missing")
    except OSError as error:
        return dataclasses.replace(entry, state="unreadable", reason=f"cannot be read: {error.strerror or error}")
    return dataclasses.replace(entry, state="damaged" if reason else "whole", reason=reason)


def remember(plan: Path, sha256: str) -> None:
    """Spares a plan whose SHA-256 was just computed, under another name maybe, from being read again."""
    _verified[_identity(plan)] = sha256


def _damage(plan: Path, manifest: PlanManifest, verify: bool) -> str | None:
    if not plan.is_file():
        return "there is a manifest and no plan"
    size = plan.stat().st_size
    if size != manifest.plan_bytes:
        return f"it has {size} bytes, its manifest says {manifest.plan_bytes}"
    if verify and _sha256(plan) != manifest.plan_sha256:
        return "its SHA-256 is not its manifest's"
    return None


def _sha256(plan: Path) -> str:
    identity = _identity(plan)
    if identity not in _verified:
        _verified[identity] = file_sha256(plan)
    return _verified[identity]


def _identity(plan: Path) -> tuple[str, int, int, int, int, int]:
    # The time of the inode's change tells what a restored time of modification would hide.
    stat = plan.stat()
    return str(plan), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
