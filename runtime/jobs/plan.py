"""Planning of jobs: expands files, folders and manifests to pairs of an input and an output."""

from __future__ import annotations

import logging
import os
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.file_kinds import UNREADABLE
from wavernn_trt.runtime.files.input_files import (
    MEL_SUFFIXES,
    LeftOut,
    describe_inputs,
    is_input,
    is_mel,
    recording_suffixes,
)
from wavernn_trt.runtime.files.standard_streams import is_input_stream, is_standard_output
from wavernn_trt.runtime.jobs.manifest import MANIFEST_SUFFIX, Entry, default_output, read_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One input and its output."""

    input: Path
    """A recording, or a mel spectrogram."""
    output: Path
    """The WAV file."""
    seed: int
    """Seed of the random numbers."""
    sample_rate: int | None = None
    """Hz that a mel was made for, if the manifest states it."""
    content: bytes | None = field(default=None, repr=False, compare=False)
    """The input's bytes, if it is a stream."""


@dataclass(frozen=True)
class _Group:
    """Files of one folder, or of one manifest."""

    source: Path
    target: Path
    seed: int
    entries: list[Entry] = field(default_factory=list)
    nested: bool = False
    """Whether outputs may be in subfolders of the target."""

    def paths(self, entry: Entry) -> tuple[str, str]:
        """Paths of the input and the output."""
        source, output = (entry, None) if isinstance(entry, str) else entry[:2]
        return os.path.join(self.source, source), os.path.join(self.target, output or default_output(source))

    def job(self, entry: Entry) -> Job:
        # Joined as text: pathlib interns the parts of a path, which doubles the memory of the names.
        source, output = self.paths(entry)
        seed, rate = (None, None) if isinstance(entry, str) else entry[2:]
        return Job(Path(source), Path(output), self.seed if seed is None else seed, rate)


class JobPlan(Sequence[Job]):
    """Jobs in order. Only names are stored, about 80 bytes a job; the `Job` objects are created on access."""

    def __init__(self, groups: Sequence[_Group], left_out: LeftOut | None = None) -> None:
        self._groups = groups
        self.left_out = LeftOut() if left_out is None else left_out
        """Files in the folders that are neither recordings nor mels."""
        self._ends = np.cumsum([len(group.entries) for group in self._groups]).tolist()

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends else 0

    def __iter__(self) -> Iterator[Job]:
        for group in self._groups:
            yield from map(group.job, group.entries)

    @overload
    def __getitem__(self, index: int) -> Job: ...

    @overload
    def __getitem__(self, index: slice) -> list[Job]: ...

    def __getitem__(self, index: int | slice) -> Job | list[Job]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        group = self._groups[number]
        return group.job(group.entries[place - self._ends[number]])  # from the group's end

    def paths(self) -> Iterator[tuple[str, str, str]]:
        """Yields the paths of each input and output, and the output's path with its folder's links resolved."""
        folder, real = None, ""
        for group in self._groups:
            for source, output in map(group.paths, group.entries):
                head, tail = os.path.split(output)
                if head != folder:
                    folder, real = head, os.path.realpath(head)
                yield source, output, os.path.join(real, tail)

    def output_folders(self) -> set[Path]:
        """Returns the folders of all outputs."""
        if len(self) == 1 and is_standard_output(self[0].output):
            return set()
        folders = {group.target for group in self._groups}
        for group in self._groups:
            if group.nested:
                folders.update(group.job(entry).output.parent for entry in group.entries)
        return folders


def plan_jobs(inputs: Sequence[Path], out: Path, seed: int = 0, *, streams: bool = False) -> JobPlan:
    """Assigns an output to every input; writes nothing.

    Files of one folder that differ only in their suffix would get the same output. The outputs of all of them keep the
    suffix (``a.wav.wav``, ``a.mp3.wav``).

    Args:
        inputs: recordings, mels, folders (searched recursively; their structure is kept) and manifests (``.jsonl``:
            objects with ``input`` and optionally ``output``, ``seed``, ``sample_rate``; paths are relative to the
            manifest and to ``out``).
        out: a folder; or the output itself, if there is a single input file and `is_file_name` is true.
        seed: default seed, for jobs without one in a manifest.
        streams: whether a single input may be a stream, and the output standard output.

    Raises:
        VocoderError: no input was found, a manifest cannot be read, or two inputs have one output.
    """
    if not inputs:
        raise VocoderError(f"no input; expected {_expected()}")
    single = len(inputs) == 1 and not inputs[0].is_dir() and inputs[0].suffix.lower() != MANIFEST_SUFFIX
    to_file = is_file_name(out)
    _check_streams(inputs, out, single=single, allowed=streams)
    if to_file and not single:
        raise VocoderError(f"output {out}: found a file name for several inputs, expected a folder")
    if not to_file and not out.is_dir():
        if out.exists():
            raise VocoderError(f"output {out}: found a file there, expected a folder or a name that ends in .wav")
        if out.suffix.lower() in (*recording_suffixes(), *MEL_SUFFIXES, *UNREADABLE):
            raise VocoderError(f"output {out}: found {out.suffix}, expected a name that ends in .wav, or a folder")
    if not any(path.exists() or is_input_stream(path) for path in inputs):
        raise VocoderError(f"{inputs[0]}: no such file or folder; expected {_expected()}")
    left_out = LeftOut()
    if to_file:
        plan = JobPlan([_Group(Path(), out.parent, seed, [(str(inputs[0]), out.name, None, None)])])
    else:
        plan = JobPlan(list(_groups(inputs, out, seed, left_out)), left_out)
    _check_collisions(plan)
    return plan


def is_file_name(out: Path) -> bool:
    """Whether an output is a single file: standard output, or a name in ``.wav`` that is not an existing folder."""
    return is_standard_output(out) or (out.suffix.lower() == ".wav" and not out.is_dir())


def _check_streams(inputs: Sequence[Path], out: Path, *, single: bool, allowed: bool) -> None:
    stream = next(filter(is_input_stream, inputs), None)
    if not allowed and (stream is not None or is_standard_output(out)):
        raise VocoderError(f"{stream or out}: found a stream, expected a file or a folder")
    if stream is not None and not single:
        raise VocoderError(f"{stream}: found a stream among several inputs, expected it alone")
    if stream is not None and not is_file_name(out):
        raise VocoderError(
            f"output {out}: found a folder, but {stream} has no name; name a .wav file, or - for standard output"
        )
    if is_standard_output(out) and not single:
        raise VocoderError(f"output {out}: found standard output for several inputs, expected a folder")


def _expected() -> str:
    return f"{describe_inputs()}, folders of them or a {MANIFEST_SUFFIX}"


def _groups(inputs: Sequence[Path], out: Path, seed: int, left_out: LeftOut) -> Iterator[_Group]:
    files = [path for path in inputs if not path.is_dir() and path.suffix.lower() != MANIFEST_SUFFIX]
    shared = _shared_outputs({str(path) for path in files})
    for path in inputs:
        if path.is_dir():
            found = [group for group in _search(path, out, seed, os.path.realpath(out), left_out) if group.entries]
            if not found:
                found_else = f"; {left_out.summary()}" if left_out else ""
                raise VocoderError(f"{path}: found no {describe_inputs()} in this folder{found_else}")
            yield from found
        elif path.suffix.lower() == MANIFEST_SUFFIX:
            yield _Group(path.parent, out, seed, list(read_manifest(path)), nested=True)
        else:
            name = f"{path.name}.wav" if default_output(str(path)) in shared else path.with_suffix(".wav").name
            yield _Group(Path(), out, seed, [(str(path), name, None, None)])


def _shared_outputs(names: Iterable[str]) -> set[str]:
    """Returns the default outputs that several inputs have in common."""
    return {output for output, count in Counter(map(default_output, names)).items() if count > 1}


def _search(
    folder: Path, target: Path, seed: int, out: str, left_out: LeftOut, *, hidden: bool = False
) -> Iterator[_Group]:
    """Lists the inputs of a folder and its subfolders by name; links to folders are not followed.

    Args:
        folder: the folder to search.
        target: folder of its outputs.
        seed: seed of its jobs.
        out: resolved path of the run's output folder, which is not searched.
        left_out: receives the files that are not inputs.
        hidden: whether the folder is inside a hidden one, whose files are not added to ``left_out``.
    """
    names: list[str] = []
    folders = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
                elif entry.name.startswith("."):
                    continue
                elif entry.is_file() and is_input(entry.path):
                    names.append(entry.name)
                elif not hidden:
                    left_out.add(entry.path)
    except PermissionError as error:
        logger.warning("%s: %s; the files in it are left out", folder, error.strerror)
        return
    # Outputs beside their inputs would be inputs of the next run. No suffix is kept, so `_check_collisions` refuses.
    shared = set() if os.path.realpath(folder) == os.path.realpath(target) else _shared_outputs(names)
    group = _Group(folder, target, seed)
    names.extend(folders)
    names.sort()
    for name in names:
        if name not in folders:
            group.entries.append((name, f"{name}.wav", None, None) if default_output(name) in shared else name)
            continue
        subfolder = folder / name
        # An output folder inside the inputs holds outputs of an earlier run.
        if os.path.realpath(subfolder) != out:
            yield group
            group = _Group(folder, target, seed)
            within = hidden or name.startswith(".")
            yield from _search(subfolder, target / name, seed, out, left_out, hidden=within)
    yield group


def _check_collisions(plan: JobPlan) -> None:
    """Checks that all outputs differ: compares hashes (8 bytes a job), then the paths whose hashes are equal."""
    hashes = array("q")
    for source, _, replaced in plan.paths():
        # A mel never has the suffix of a WAV file.
        if not is_mel(source) and replaced == os.path.realpath(source):
            raise VocoderError(f"{Path(source)} would be overwritten by its own output; choose another output folder")
        hashes.append(hash(replaced))
    ordered = np.sort(np.frombuffer(hashes, np.int64))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    taken: dict[str, Path] = {}
    for source, output, replaced in plan.paths():
        if hash(replaced) not in suspects:
            continue
        if replaced in taken:
            raise VocoderError(
                f"{taken[replaced]} and {Path(source)} would both become {Path(output)}; vocode them into different "
                "folders, or name their outputs in a manifest"
            )
        taken[replaced] = Path(source)
