"""Which files become which: inputs, folders and manifests to a list of jobs."""

from __future__ import annotations

import logging
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from wavernn_trt.runtime.audio import AUDIO_SUFFIXES, MEL_SUFFIX
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.jobs.manifest import MANIFEST_SUFFIX, Entry, read_manifest, usual_output

logger = logging.getLogger(__name__)

_FOREIGN = (".aac", ".aiff", ".flac", ".m4a", ".mp3", ".npy", ".ogg", ".opus")
"""Suffixes of an output that nobody means as a folder's name."""
_INPUTS = f"recordings ({', '.join(AUDIO_SUFFIXES)}), mels ({MEL_SUFFIX}), folders of them or a {MANIFEST_SUFFIX}"


@dataclass(frozen=True)
class Job:
    """One file to make of another."""

    input: Path
    """A recording, or a mel spectrogram."""
    output: Path
    """The WAV file."""
    seed: int
    """Of the random numbers that samples are drawn with."""
    sample_rate: int | None = None
    """Hz that a mel was made for, where the manifest says."""


@dataclass(frozen=True)
class _Group:
    """Files of one folder, or of one manifest."""

    source: Path
    target: Path
    seed: int
    entries: list[Entry] = field(default_factory=list)
    nested: bool = False
    """Whether outputs may go into folders beneath the target."""

    def names(self, entry: Entry) -> tuple[str, str]:
        """Of the input and of the output."""
        source, output = (entry, None) if isinstance(entry, str) else entry[:2]
        return os.path.join(self.source, source), os.path.join(self.target, output or usual_output(source))

    def job(self, entry: Entry) -> Job:
        # Of text: a path that is given a name puts it into Python's table of strings, where it takes as much again.
        source, output = self.names(entry)
        seed, rate = (None, None) if isinstance(entry, str) else entry[2:]
        return Job(Path(source), Path(output), self.seed if seed is None else seed, rate)


class JobPlan(Sequence[Job]):
    """Jobs in their order. Of each only the name is kept, about 80 bytes; the job is made when it is asked for."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        """Takes what `plan_jobs` has found."""
        self._groups = groups
        self._ends = np.cumsum([len(group.entries) for group in self._groups]).tolist()

    def __len__(self) -> int:
        """How many jobs there are."""
        return int(self._ends[-1]) if self._ends else 0

    def __iter__(self) -> Iterator[Job]:
        """All jobs."""
        for group in self._groups:
            yield from map(group.job, group.entries)

    @overload
    def __getitem__(self, index: int) -> Job: ...

    @overload
    def __getitem__(self, index: slice) -> list[Job]: ...

    def __getitem__(self, index: int | slice) -> Job | list[Job]:
        """One job, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        group = self._groups[number]
        return group.job(group.entries[place - self._ends[number]])  # from the group's end

    def names(self) -> Iterator[tuple[str, str, str]]:
        """Of inputs, of outputs, and of what outputs replace: names in folders, however the folders are reached."""
        folder, real = None, ""
        for group in self._groups:
            for source, output in map(group.names, group.entries):
                head, tail = os.path.split(output)
                if head != folder:
                    folder, real = head, os.path.realpath(head)
                yield source, output, os.path.join(real, tail)

    def output_folders(self) -> set[Path]:
        """The folders that outputs go into."""
        folders = {group.target for group in self._groups}
        for group in self._groups:
            if group.nested:
                folders.update(group.job(entry).output.parent for entry in group.entries)
        return folders


def plan_jobs(inputs: Sequence[Path], out: Path, seed: int = 0) -> JobPlan:
    """Lays out what to make of which input, touching nothing.

    Args:
        inputs: recordings, ``.npy`` mels, folders (searched recursively; their structure is kept) and manifests
            (``.jsonl``: objects with ``input`` and optionally ``output``, ``seed``, ``sample_rate``; paths are relative
            to the manifest and to ``out``).
        out: a folder; or the output itself, where there is a single input file and `is_file_name` says so.
        seed: where a manifest does not say.

    Raises:
        VocoderError: nothing to do, a manifest that cannot be read, or two inputs for one output.
    """
    if not inputs:
        raise VocoderError(f"no input; expected {_INPUTS}")
    single = len(inputs) == 1 and not inputs[0].is_dir() and inputs[0].suffix.lower() != MANIFEST_SUFFIX
    to_file = is_file_name(out)
    if to_file and not single:
        raise VocoderError(f"output {out}: found a file name for several inputs, expected a folder")
    if not to_file and not out.is_dir():
        if out.exists():
            raise VocoderError(f"output {out}: found a file there, expected a folder or a name that ends in .wav")
        if out.suffix.lower() in _FOREIGN:
            raise VocoderError(f"output {out}: found {out.suffix}, expected a name that ends in .wav, or a folder")
    if not any(path.exists() for path in inputs):
        raise VocoderError(f"{inputs[0]}: no such file or folder; expected {_INPUTS}")
    if to_file:
        plan = JobPlan([_Group(Path(), out.parent, seed, [(str(inputs[0]), out.name, None, None)])])
    else:
        plan = JobPlan([group for path in inputs for group in _groups(path, out, seed)])
    _refuse_clashes(plan)
    return plan


def is_file_name(out: Path) -> bool:
    """Whether an output is a file's name: it ends in ``.wav``, and no folder has it."""
    return out.suffix.lower() == ".wav" and not out.is_dir()


def _groups(path: Path, out: Path, seed: int) -> list[_Group]:
    if path.is_dir():
        found = [group for group in _search(path, out, seed, os.path.realpath(out)) if group.entries]
        if not found:
            raise VocoderError(f"{path}: found no {', '.join(AUDIO_SUFFIXES)} or {MEL_SUFFIX} file in this folder")
        return found
    if path.suffix.lower() == MANIFEST_SUFFIX:
        return [_Group(path.parent, out, seed, list(read_manifest(path)), nested=True)]
    return [_Group(Path(), out, seed, [(str(path), path.with_suffix(".wav").name, None, None)])]


def _search(folder: Path, target: Path, seed: int, out: str) -> Iterator[_Group]:
    """What is in a folder, in the order of the names; links to folders are not followed, so that circles end."""
    names: list[str] = []
    folders = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
                elif _is_input(entry):
                    names.append(entry.name)
    except PermissionError as error:
        logger.warning("%s: %s; what is in it is left out", folder, error.strerror)
        return
    group = _Group(folder, target, seed)
    names.extend(folders)
    names.sort()
    for name in names:
        if name not in folders:
            group.entries.append(name)
            continue
        beneath = folder / name
        # Outputs of an earlier run, when they go beneath the inputs, are not inputs of this one.
        if os.path.realpath(beneath) != out:
            yield group
            group = _Group(folder, target, seed)
            yield from _search(beneath, target / name, seed, out)
    yield group


def _is_input(entry: os.DirEntry[str]) -> bool:
    known = os.path.splitext(entry.name)[1].lower() in (*AUDIO_SUFFIXES, MEL_SUFFIX)
    return known and not entry.name.startswith(".") and entry.is_file()


def _refuse_clashes(plan: JobPlan) -> None:
    """Compares hashes, eight bytes a job; names are looked at again where two are equal."""
    hashes = array("q")
    for source, _, replaced in plan.names():
        # A mel is never named like a WAV file.
        if not source.endswith(MEL_SUFFIX) and replaced == os.path.realpath(source):
            raise VocoderError(f"{Path(source)} would be overwritten by its own output; choose another output folder")
        hashes.append(hash(replaced))
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    taken: dict[str, Path] = {}
    for source, output, replaced in plan.names():
        if hash(replaced) not in suspects:
            continue
        if replaced in taken:
            raise VocoderError(
                f"{taken[replaced]} and {Path(source)} would both become {Path(output)}; vocode them into different "
                "folders, or name their outputs in a manifest"
            )
        taken[replaced] = Path(source)
