"""Where a checkpoint's settings come from: the file itself, a settings file that the user names, or one beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.presets import Preset
from wavernn_trt.export.settings import RawSettings, Settings, collect, interpret
from wavernn_trt.export.settings_files import SettingsFile, named_settings, parse_settings, settings_beside, with_nulls
from wavernn_trt.export.settings_table import setting_of
from wavernn_trt.export.state import StoredState

_OWN = "the checkpoint's own config"
_SECTIONS = ("config", "hparams", "hyper_parameters", "params", "args", "settings")
"""Entries of a checkpoint that may hold its settings, the likeliest first."""


@dataclass(frozen=True)
class Sources:
    """The settings that were found."""

    raw: RawSettings | None
    """Those that are used; ``None`` where there are none."""
    own: bool
    """Whether they stand in the checkpoint file."""
    named: bool
    """Whether the user named the file."""
    others: tuple[RawSettings, ...]
    """Settings of lower precedence: files beside the checkpoint, or the named file where the checkpoint has its own."""
    notes: tuple[str, ...]
    """Lines for the user."""

    def fitting(self, sizes: Mapping[str, Any]) -> Sources:
        """The same, with a file beside the checkpoint whose sizes are the weights' before one whose sizes are not.

        Args:
            sizes: from the weights' shapes.
        """
        if self.raw is None or self.own or self.named or not self.others or _fits(self.raw, sizes):
            return self
        right = [other for other in self.others if _fits(other, sizes)]
        if not right:
            return self
        note = f"{self.raw.source} beside the checkpoint is not used: its sizes are another model's"
        rest = tuple(other for other in self.others if other is not right[0] and _fits(other, sizes))
        return dataclasses.replace(self, raw=right[0], others=rest, notes=(*self.notes, note))

    def refuse_contradictions(self, settings: Settings, preset: Preset, overrides: Mapping[str, object]) -> None:
        """Refuses two sources that state different values of a setting, unless an override states it.

        A checkpoint's own settings have precedence over files that happen to lie beside it.

        Raises:
            CheckpointError: names the setting, both sources and both values.
        """
        if "preset" in overrides:
            usual = {**preset.audio, "mode": preset.mode, "mu_law": preset.mu_law}
            usual = {name: value for name, value in usual.items() if value is not None}
            _compare(settings, Settings(f"preset {preset.name}", usual), overrides, "leave --preset out")
        if self.own and not self.named:
            return
        for other in self.others:
            way_out = "name the right file with --config"
            _compare(settings, interpret(other, preset, overrides.get("sample_rate")), overrides, way_out)


def find_sources(path: Path, stored: StoredState, given: object = None) -> Sources:
    """Looks for the settings of a checkpoint.

    Args:
        path: the checkpoint's.
        stored: its contents.
        given: the settings file that the user names.

    Raises:
        CheckpointError: a file cannot be read, or contradicts itself.
    """
    own = _inside(stored)
    if given is not None:
        named = collect(named_settings(given))
        if own is None:
            return Sources(named, False, True, (), named.notes)
        return Sources(own, True, True, (named,), (*own.notes, *named.notes))
    beside, notes = settings_beside(path)
    if own is not None:
        names = ", ".join(file.name for file in beside)
        if beside:
            notes = (*notes, f"{names} beside the checkpoint is not used: the checkpoint holds its own settings")
        return Sources(own, True, False, (), (*own.notes, *notes))
    files = [collect(file) for file in beside]
    if not files:
        return Sources(None, False, False, (), notes)
    if len(files) > 1:
        names = ", ".join(file.source for file in files[1:])
        notes = (*notes, f"settings are {files[0].source}'s; beside it there is also {names} (--config names another)")
    return Sources(files[0], False, False, tuple(files[1:]), notes)


def _inside(stored: StoredState) -> RawSettings | None:
    """The settings that stand in the checkpoint file."""
    for name in _SECTIONS:
        section = stored.beside.get(name)
        if isinstance(section, Mapping):
            file = SettingsFile(_OWN, with_nulls(section))
            if file.known and file.foreign is None:
                return collect(file)
    values = {name: value for name, value in stored.beside.items() if setting_of(str(name)) and name != "loss"}
    if values:
        return collect(SettingsFile(_OWN, with_nulls(values)))
    files = stored.beside.get("files")
    for name, text in files.items() if isinstance(files, Mapping) else ():
        try:
            file = parse_settings(str(name), str(text))
        except Exception as error:
            raise CheckpointError(f"{name} in the archive cannot be read: {str(error)[:200]}") from None
        if file.known and file.foreign is None:
            return collect(dataclasses.replace(file, name=f"{name} in the archive"))
    return None


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
        if _plain(value) != _plain(theirs) and not (
            name == "mode" and isinstance(value, int) != isinstance(theirs, int)
        ):
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
