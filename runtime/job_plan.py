"""Which files become which: inputs, folders and manifests to a list of jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from wavernn_trt.runtime.audio import AUDIO_SUFFIXES, MEL_SUFFIX, check_regular
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.uniforms import check_seed

MANIFEST_SUFFIX = ".jsonl"
"""JSON lines, one object for each input."""
_FOREIGN = (".aac", ".aiff", ".flac", ".m4a", ".mp3", ".npy", ".ogg", ".opus")
"""Suffixes of an output that nobody means as a folder's name."""
_MANIFEST_KEYS = ("input", "output", "sample_rate", "seed")
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


def plan_jobs(inputs: Sequence[Path], out: Path, seed: int = 0) -> list[Job]:
    """Lays out what to make of which input, touching nothing.

    Args:
        inputs: recordings, ``.npy`` mels, folders (searched recursively; their structure is kept) and manifests
            (``.jsonl``: objects with ``input`` and optionally ``output``, ``seed``, ``sample_rate``; paths are relative
            to the manifest and to ``out``).
        out: a folder; or the output itself, where there is a single input file and ``out`` ends in ``.wav``.
        seed: where a manifest does not say.

    Raises:
        VocoderError: nothing to do, a manifest that cannot be read, or two inputs for one output.
    """
    if not inputs:
        raise VocoderError(f"no input; expected {_INPUTS}")
    single = len(inputs) == 1 and not inputs[0].is_dir() and inputs[0].suffix.lower() != MANIFEST_SUFFIX
    to_file = out.suffix.lower() == ".wav" and not out.is_dir()
    if to_file and not single:
        raise VocoderError(f"output {out}: found a file name for several inputs, expected a folder")
    if not to_file and not out.is_dir():
        if out.exists():
            raise VocoderError(f"output {out}: found a file there, expected a folder or a name that ends in .wav")
        if out.suffix.lower() in _FOREIGN:
            raise VocoderError(f"output {out}: found {out.suffix}, expected a name that ends in .wav, or a folder")
    if not any(path.exists() for path in inputs):
        raise VocoderError(f"{inputs[0]}: no such file or folder; expected {_INPUTS}")
    jobs = [Job(inputs[0], out, seed)] if to_file else list(_jobs(inputs, out, seed))
    _refuse_clashes(jobs)
    return jobs


def _jobs(inputs: Iterable[Path], out: Path, seed: int) -> Iterator[Job]:
    for path in inputs:
        if path.is_dir():
            found = list(_search(path, out))
            if not found:
                raise VocoderError(f"{path}: found no {', '.join(AUDIO_SUFFIXES)} or {MEL_SUFFIX} file in this folder")
            for file in found:
                yield Job(file, out / file.relative_to(path).with_suffix(".wav"), seed)
        elif path.suffix.lower() == MANIFEST_SUFFIX:
            yield from _read_manifest(path, out, seed)
        else:
            yield Job(path, out / path.with_suffix(".wav").name, seed)


def _search(folder: Path, out: Path) -> Iterator[Path]:
    beneath = out.resolve()
    for file in sorted(folder.rglob("*")):
        # Outputs of an earlier run, when they go beneath the inputs, are not inputs of this one.
        known = file.suffix.lower() in (*AUDIO_SUFFIXES, MEL_SUFFIX) and not file.name.startswith(".")
        inside = beneath != folder.resolve() and beneath in file.resolve().parents
        if known and not inside and file.is_file():
            yield file


def _read_manifest(path: Path, out: Path, seed: int) -> Iterator[Job]:
    try:
        check_regular(path)
        # Windows' editors begin with a byte order mark; and a JSON string may hold separators that splitlines cuts at.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise VocoderError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise VocoderError(f"{path}: not UTF-8 text; expected one JSON object a line") from None
    entries = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise VocoderError(f'{path}: found no lines, expected one JSON object a line, such as {{"input": "a.wav"}}')
    for number, line in entries:
        try:
            yield _manifest_job(line, path.parent, out, seed)
        except VocoderError as error:
            raise VocoderError(f"{path}, line {number}: {error}") from None


def _manifest_job(line: str, folder: Path, out: Path, seed: int) -> Job:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise VocoderError(f"not JSON ({error})") from None
    if not isinstance(entry, dict):
        raise VocoderError(f'found {type(entry).__name__}, expected an object such as {{"input": "a.wav"}}')
    for key in entry:
        if key not in _MANIFEST_KEYS:
            raise VocoderError(f"found key {key!r}, expected {', '.join(_MANIFEST_KEYS)}")
    source = _path(entry.get("input"), "input")
    target = _path(entry["output"], "output") if entry.get("output") is not None else _wav_name(source)
    if target.suffix.lower() != ".wav":
        raise VocoderError(f"output: found {str(target)!r}, expected a name that ends in .wav")
    if target.is_absolute() or ".." in target.parts:
        raise VocoderError(f"output: found {str(target)!r}, expected a path inside the output folder")
    rate = entry.get("sample_rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int) or rate < 1):
        raise VocoderError(f"sample_rate: found {rate!r}, expected a positive number of Hz")
    if rate is not None and source.suffix.lower() != MEL_SUFFIX:
        raise VocoderError(
            f"sample_rate: found {rate} for {source}, expected it for mels ({MEL_SUFFIX}) only; leave it out, since a "
            "recording's file says its rate"
        )
    own_seed = entry.get("seed")
    return Job(folder / source, out / target, seed if own_seed is None else check_seed(own_seed), rate)


def _path(value: object, key: str) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise VocoderError(f"{key}: found {value!r}, expected a path")
    return Path(value)


def _wav_name(source: PurePath) -> Path:
    """Where a file goes in the output folder: its own relative path if that stays inside, else its name."""
    inside = not source.is_absolute() and ".." not in source.parts
    return Path(source if inside else source.name).with_suffix(".wav")


def _refuse_clashes(jobs: Iterable[Job]) -> None:
    taken: dict[Path, Path] = {}
    for job in jobs:
        output = job.output.resolve()
        if output == job.input.resolve():
            raise VocoderError(f"{job.input} would be overwritten by its own output; choose another output folder")
        if output in taken:
            raise VocoderError(
                f"{taken[output]} and {job.input} would both become {job.output}; vocode them into different "
                "folders, or name their outputs in a manifest"
            )
        taken[output] = job.input
