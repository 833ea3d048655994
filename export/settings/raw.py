"""Sorts the keys of a settings file into settings, under their names here, and unused keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wavernn_trt.export.errors import CheckpointError, printable
from wavernn_trt.export.settings.files import SettingsFile
from wavernn_trt.export.settings.table import SECTIONS, nearest, plain_value, setting_of, without_effect


@dataclass(frozen=True)
class Stated:
    """One value of a settings file."""

    value: Any
    key: str
    """Sections and key, with dots."""


@dataclass(frozen=True)
class RawSettings:
    """The keys of a settings file, sorted into settings and others."""

    source: str
    """The file's name."""
    stated: Mapping[str, Stated]
    """The file's values by their names in `SETTINGS`."""
    keys: frozenset[str]
    """All keys and section names, as hints about the project that wrote them."""
    notes: tuple[str, ...]
    """Lines about unused keys."""

    def get(self, name: str) -> Any:
        """Returns a setting's value; ``None`` where it is null or not stated."""
        stated = self.stated.get(name)
        return None if stated is None else stated.value


def collect(file: SettingsFile) -> RawSettings:
    """Sorts the keys of a settings file.

    Raises:
        CheckpointError: two keys state one setting differently, or a section is not an object.
    """
    stated: dict[str, Stated] = {}
    keys: set[str] = set()
    unused: list[str] = []
    sections: list[str] = []
    unknown: list[str] = []

    def read(section: Mapping[str, Any], prefix: str) -> None:
        for key, value in section.items():
            path = f"{prefix}{printable(key)}"
            if isinstance(value, Mapping):
                keys.add(path)
                if key in SECTIONS:
                    read(value, f"{path}.")
                elif setting_of(path) is not None:
                    unknown.append(f"{path} (an object)")
                else:
                    sections.append(f"{path}.*")
                continue
            keys.add(key)
            name = setting_of(path)
            if key == "loss" and not isinstance(value, str):
                name = None  # a training's loss; torchaudio's example names its mode so
            if name is not None:
                _state(name, Stated(plain_value(name, value), path), stated, file.name)
            elif key in SECTIONS and not isinstance(value, str) and value is not None:
                raise CheckpointError(f"{file.name}: {path} is {type(value).__name__}, expected an object")
            elif without_effect(key) or key in SECTIONS or key == "loss":
                unused.append(path)
            else:
                alike = nearest(key)
                unknown.append(f"{path} (is {alike} meant?)" if alike else path)

    read(file.values, "")
    notes = []
    if unknown:
        notes.append(f"{file.name}: not known, and not used: {', '.join(unknown)}")
    computed = [name for name in file.computed if setting_of(name) and setting_of(name) not in stated]
    computed += [line for line in file.computed if line.startswith("from ")]
    if computed:
        notes.append(
            f"{file.name}: computed by code, and not read: {', '.join(computed)}; state them with --set NAME=VALUE"
        )
    if sections:
        notes.append(f"{file.name}: sections that are not a vocoder's settings, and not used: {', '.join(sections)}")
    if unused:
        notes.append(f"{file.name}: without effect here: {', '.join(unused)}")
    return RawSettings(file.name, stated, frozenset({*keys, *file.computed}), tuple(notes))


def _state(name: str, new: Stated, stated: dict[str, Stated], source: str) -> None:
    old = stated.get(name)
    if old is None or old.value is None:
        stated[name] = new
    elif new.value is not None and not _same(old.value, new.value):
        raise CheckpointError(
            f"{source} contradicts itself: {old.key} = {old.value!r} and {new.key} = {new.value!r}; "
            "correct the file, or give one without either and state the right value with --set"
        )


def _same(one: object, other: object) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    return one == other
