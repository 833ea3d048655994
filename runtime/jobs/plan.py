"""Plans jobs: inputs, folders and manifests become a list of inputs and outputs."""

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
from wavernn_trt.runtime.jobs.manifest import MANIFEST_SUFFIX, Entry, read_manifest, usual_output

logger = logging.getLogger(__name__)


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
    """Hz that a mel was made for, where the manifest has it."""
    content: bytes | None = field(default=None, repr=False, compare=False)
    """The input's bytes, where it is a stream."""


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

    def __init__(self, groups: Sequence[_Group], left_out: LeftOut | None = None) -> None:
        """Takes what `plan_jobs` has found."""
        self._groups = groups
        self.left_out = LeftOut() if left_out is None else left_out
        """Files of the folders that are neither recordings nor mels."""
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
        if len(self) == 1 and is_standard_output(self[0].output):
            return set()
        folders = {group.target for group in self._groups}
        for group in self._groups:
            if group.nested:
                folders.update(group.job(entry).output.parent for entry in group.entries)
        return folders


def plan_jobs(inputs: Sequence[Path], out: Path, seed: int = 0, *, streams: bool = False) -> JobPlan:
    """Lists the output of every input, touching nothing.

    Files of one folder that differ in their suffix alone would become the same WAV file. The outputs of all of them
    keep the suffix (``a.wav.wav``, ``a.mp3.wav``), so that a file added later is not taken for done.

    Args:
        inputs: recordings, mels, folders (searched recursively; their structure is kept) and manifests (``.jsonl``:
            objects with ``input`` and optionally ``output``, ``seed``, ``sample_rate``; paths are relative to the
            manifest and to ``out``).
        out: a folder; or the output itself, where there is a single input file and `is_file_name` is true.
        seed: of jobs without a seed in a manifest.
        streams: whether the single input may be a stream, and the output standard output.

    Raises:
        VocoderError: nothing to do, a manifest that cannot be read, or two inputs for one output.
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
    _refuse_clashes(plan)
    return plan


def is_file_name(out: Path) -> bool:
    """Whether an output is no folder: it ends in ``.wav`` and no folder has the name, or it is standard output."""
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
            name = f"{path.name}.wav" if usual_output(str(path)) in shared else path.with_suffix(".wav").name
            yield _Group(Path(), out, seed, [(str(path), name, None, None)])


def _shared_outputs(names: Iterable[str]) -> set[str]:
    """Usual outputs that several inputs have."""
    return {output for output, count in Counter(map(usual_output, names)).items() if count > 1}


def _search(
    folder: Path, target: Path, seed: int, out: str, left_out: LeftOut, *, hidden: bool = False
) -> Iterator[_Group]:
    """What is in a folder, in the order of the names; links to folders are not followed, so that circles end.

    Args:
        folder: where to look.
        target: where its outputs go.
        seed: of its jobs.
        out: the real path of the output folder, which is not searched.
        left_out: gets the files that are no inputs.
        hidden: whether a folder above is hidden: of its files, those that are left out are not counted.
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
        logger.warning("%s: %s; what is in it is left out", folder, error.strerror)
        return
    # Outputs beside their inputs are inputs of the next run; that this is a clash, and an error, must not change.
    shared = set() if os.path.realpath(folder) == os.path.realpath(target) else _shared_outputs(names)
    group = _Group(folder, target, seed)
    names.extend(folders)
    names.sort()
    for name in names:
        if name not in folders:
            group.entries.append((name, f"{name}.wav", None, None) if usual_output(name) in shared else name)
            continue
        beneath = folder / name
        # Outputs of an earlier run, when they go beneath the inputs, are not inputs of this one.
        if os.path.realpath(beneath) != out:
            yield group
            group = _Group(folder, target, seed)
            within = hidden or name.startswith(".")
            yield from _search(beneath, target / name, seed, out, left_out, hidden=within)
    yield group


def _refuse_clashes(plan: JobPlan) -> None:
    """Compares hashes, eight bytes a job; names are looked at again where two are equal."""
    hashes = array("q")
    for source, _, replaced in plan.names():
        # A mel is never named like a WAV file.
        if not is_mel(source) and replaced == os.path.realpath(source):
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
