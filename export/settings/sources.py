"""Finds a checkpoint's settings: in the checkpoint, in a file that the user names, or in one beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavernn_trt.export.checkpoints.state import StoredState
from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.settings.files import (
    SettingsFile,
    named_settings,
    parse_settings,
    settings_beside,
    settings_in_archive,
    with_nulls,
)
from wavernn_trt.export.settings.interpretation import Settings, interpret
from wavernn_trt.export.settings.presets import Preset
from wavernn_trt.export.settings.raw import RawSettings, collect
from wavernn_trt.export.settings.table import setting_of

_OWN = "the checkpoint's own config"
_SECTIONS = ("config", "hparams", "hyper_parameters", "params", "args", "settings")
"""Entries of a checkpoint that may hold its settings, the likeliest first."""
_UNCLEAR = ("loss", "log", "mode", "peak", "delay", "floor", "pad")
"""Entries beside a section of settings that may be values of a training."""
_MODES = {"mold": "mol", "gaussian": "gauss", "bits": "raw"}
"""Synonyms of modes."""


@dataclass(frozen=True)
class Sources:
    """The settings that were found."""

    raw: RawSettings | None
    """The source with the highest precedence; ``None`` where there is none."""
    own: bool
    """Whether they are in the checkpoint file or its archive."""
    named: bool
    """Whether the user named the file."""
    others: tuple[RawSettings, ...]
    """Other files: beside the checkpoint, in its archive, or named in addition to the checkpoint's own settings."""
    notes: tuple[str, ...]
    """Lines for the user."""

    @property
    def hints(self) -> RawSettings | None:
        """The keys and values of all used sources."""
        if self.raw is None or not self.own:
            return self.raw
        files = (self.raw, *self.others)
        return dataclasses.replace(
            self.raw,
            source=" and ".join(file.source for file in files),
            stated={name: each for file in files[::-1] for name, each in file.stated.items() if each.value is not None},
            keys=frozenset().union(*(file.keys for file in files)),
        )

    def fitting(self, sizes: Mapping[str, Any]) -> Sources:
        """Returns the sources without files of other sizes beside the checkpoint, if one with the right sizes exists.

        Args:
            sizes: sizes from the weights' shapes.
        """
        if self.raw is None or self.own or self.named:
            return self
        files = (self.raw, *self.others)
        right = [file for file in files if _fits(file, sizes)]
        if not right or len(right) == len(files):
            return self
        names = ", ".join(file.source for file in files if file not in right)
        note = f"{names} beside the checkpoint is not used: its sizes are another model's"
        return dataclasses.replace(self, raw=right[0], others=tuple(right[1:]), notes=(*self.notes, note))

    def resolve(self, preset: Preset, overrides: Mapping[str, object]) -> Settings:
        """Returns the settings: the checkpoint's own, completed by the file that the user names; else one file's.

        Args:
            preset: the checkpoint's version.
            overrides: explicit settings, which have precedence and are not compared.

        Raises:
            CheckpointError: two sources state different values of a setting, or a value is wrong. Files beside a
                checkpoint with its own settings are ignored.
        """
        if self.raw is None:
            return Settings()
        rate = overrides.get("sample_rate")
        settings = interpret(self.raw, preset, rate)
        if "preset" in overrides:
            usual = {**preset.audio, "mode": preset.mode, "mu_law": preset.mu_law}
            usual = {name: value for name, value in usual.items() if value is not None}
            _compare(settings, Settings(f"preset {preset.name}", usual), overrides, "leave --preset out")
        notes = list(settings.notes)
        if len(self.others) and not self.own:
            names = ", ".join(other.source for other in self.others)
            notes.append(f"settings are {self.raw.source}'s; beside it there is also {names} (--config names another)")
        for other in self.others:
            theirs = interpret(other, preset, rate or settings.values.get("sample_rate"))
            _compare(settings, theirs, overrides, "name the right file with --config")
            if self.own:
                values, sizes = {**theirs.values, **settings.values}, {**theirs.sizes, **settings.sizes}
                settings = Settings(f"{settings.source} or {theirs.source}", values, sizes)
                notes += theirs.notes
        return dataclasses.replace(settings, notes=tuple(notes))


def find_sources(path: Path, stored: StoredState, given: object = None) -> Sources:
    """Returns the settings of a checkpoint.

    Args:
        path: the checkpoint's path.
        stored: its contents.
        given: the settings file that the user names.

    Raises:
        CheckpointError: a file cannot be read, or contradicts itself.
    """
    own, notes = _inside(stored)
    if given is not None:
        file = named_settings(given)
        foreign = f"{file.name} is another model's ({file.foreign}); what it states of audio is used, as it is named"
        notes += () if file.foreign is None else (foreign,)
        files = (*own, collect(file))
        return Sources(files[0], bool(own), True, files[1:], notes)
    beside, others = settings_beside(path)
    if own:
        if beside:
            names = ", ".join(file.name for file in beside)
            notes += (f"{names} beside the checkpoint is not used: the checkpoint holds its own settings",)
        return Sources(own[0], True, False, own[1:], (*notes, *others))
    notes += others
    files = tuple(collect(file) for file in beside)
    return Sources(files[0] if files else None, False, False, files[1:], notes)


def _inside(stored: StoredState) -> tuple[tuple[RawSettings, ...], tuple[str, ...]]:
    """Returns the settings in the checkpoint, else those in its archive; and notes."""
    texts = stored.beside.get("files")
    files, notes = settings_in_archive(texts) if isinstance(texts, Mapping) else ((), ())
    own = _entries(stored)
    if own is not None:
        notes = (*notes, *(f"{file.name} is not used: the checkpoint holds its own settings" for file in files))
        return (own,), notes
    return tuple(collect(file) for file in files), notes


def _entries(stored: StoredState) -> RawSettings | None:
    """Returns the settings in a checkpoint's entries: in all sections with settings, and at the top."""
    values: dict[str, Any] = {}
    for name in _SECTIONS:
        section = _section(name, stored.beside.get(name))
        if section is not None:
            file = SettingsFile(_OWN, section)
            if file.known and file.foreign is None:
                values[name] = section
    only = next(iter(values.values())) if len(values) == 1 else None
    unclear = _UNCLEAR if values else ("loss",)
    top = {name: value for name, value in stored.beside.items() if setting_of(str(name)) and name not in unclear}
    if only is not None and not top:
        return collect(SettingsFile(_OWN, only))
    if values or top:
        return collect(SettingsFile(_OWN, {**with_nulls(top), **values}))
    return None


def _section(name: str, section: object) -> Mapping[str, Any] | None:
    """Returns an entry's settings, an object or JSON in text; ``None`` for other entries."""
    if isinstance(section, str) and section.lstrip().startswith("{"):
        try:
            return parse_settings(f"{name}.json", section).values
        except Exception as error:
            raise CheckpointError(f"{name} in the checkpoint is text that cannot be read: {str(error)[:200]}") from None
    return with_nulls(section) if isinstance(section, Mapping) else None


def _fits(raw: RawSettings, sizes: Mapping[str, Any]) -> bool:
    for name, size in sizes.items():
        stated = raw.get(name)
        stated = tuple(stated) if isinstance(stated, list) else stated
        if stated is not None and stated != size:
            return False
    return True


def _compare(one: Settings, other: Settings, overrides: Mapping[str, object], way_out: str) -> None:
    for name, value in one.values.items():
        if name in overrides or name not in other.values:
            continue
        theirs = other.values[name]
        one_plain, other_plain = _plain(value), _plain(theirs)
        if name == "mode":
            one_plain, other_plain = (_MODES.get(str(each), each) for each in (one_plain, other_plain))
        if one_plain != other_plain and not (name == "mode" and isinstance(value, int) != isinstance(theirs, int)):
            raise CheckpointError(
                f"{name}: found {value!r} in {one.source} and {theirs!r} in {other.source}; {way_out}, or state the "
                f"right one with --set {name}=VALUE"
            )


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, str):
        return value.lower()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
