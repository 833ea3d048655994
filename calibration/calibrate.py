"""Makes a calibration table from recordings or mels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wavernn_trt.calibration.bounds import find_bounds
from wavernn_trt.calibration.errors import CalibrationError, reason_of
from wavernn_trt.calibration.histogram import Histogram
from wavernn_trt.calibration.observe import ObservingExecutor
from wavernn_trt.calibration.partial import MisfitError, Observations, read_observations
from wavernn_trt.calibration.score import Progress, analyse_speech
from wavernn_trt.calibration.table import ActivationRange, CalibrationInput, CalibrationTable, model_hash
from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.model_directory import ModelDirectory, file_sha256
from wavernn_trt.runtime.decoding.chunk_loop import Stream, decode_streams
from wavernn_trt.runtime.decoding.uniforms import check_seed
from wavernn_trt.runtime.files.audio import read_audio, read_mel
from wavernn_trt.runtime.files.file_kinds import check_regular
from wavernn_trt.runtime.files.input_files import is_mel
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.request import Request, prepare

logger = logging.getLogger(__name__)

LITTLE_SECONDS = 1.0
"""Seconds of speech below which a notice is given: too few to contain the sounds of a language."""

Failed = Callable[[Path, str], None]
"""Called with a file that cannot be used and the reason."""
Notice = Callable[[str], None]
"""Called with messages that are not errors."""
Forced = tuple[FloatArray, NDArray[Any]]
"""A mel, and the samples that are fed to its steps."""


@dataclass(frozen=True)
class _Input:
    path: Path
    sha256: str


def calibrate(
    directory: ModelDirectory,
    inputs: Sequence[Path],
    *,
    seed: int = 0,
    batch: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    failed: Failed | None = None,
    notice: Notice = logger.warning,
    partial: Path | None = None,
) -> CalibrationTable:
    """Runs a model and measures the activations of its products.

    Recordings are teacher-forced. From mels the model first draws samples, which are then teacher-forced and lead to
    the same states. The table depends on the model, the files' contents and names, and for mels the seed; not on their
    order, the batch, the threads or interruptions. Of files with the same content only one is run.

    Args:
        directory: a verified model directory, not quantised.
        inputs: recordings, resampled where needed, or ``.npy`` mels.
        seed: seed of the samples that are drawn from mels.
        batch: files at a time.
        threads: CPU threads.
        progress: called with the number of samples done; for a mel, half for drawing and half for teacher forcing.
        failed: called for each file that cannot be used; without it, the first such file raises.
        notice: called about files with the same content, an earlier run, and too little speech.
        partial: file for intermediate results, written after each input; an existing one is continued. The caller
            removes it once the table is stored.

    Raises:
        CalibrationError: no usable input, a quantised directory, or a model that computes NaN.
        VocoderError: an invalid seed or number.
        OSError: ``partial`` cannot be written.
    """
    check_seed(seed)
    on_failure = failed or _raise
    forced = _are_recordings(inputs)
    files = _identify(inputs, on_failure, notice)
    executor = ObservingExecutor(directory, threads)
    settings = {
        "model": model_hash(directory),
        "seed": None if forced else seed,
        "onnxruntime": onnxruntime.__version__,
    }
    seen = _begin(partial, settings, executor, files, notice)
    loaded = LoadedModel.of(directory, executor, options=LoadOptions("onnxruntime", batch, threads))
    run = _Run(loaded, executor.columns, seed, progress or (lambda samples: None), on_failure)
    for steps in seen.done.values():
        run.progress(steps)
    remaining = [file for file in files if file.sha256 not in seen.done]
    for file, histograms, steps in run.observe(remaining, forced=forced):
        for name, histogram in histograms.items():
            seen.histograms[name] += histogram
        seen.done[file.sha256] = steps
        if partial is not None:
            seen.write(partial, settings)
    seconds = sum(seen.done.values()) / directory.audio.sample_rate
    if 0 < seconds < LITTLE_SECONDS:
        notice(f"{seconds:.2f} s of speech is little: rarer sounds may be clipped; use ten seconds or more")
    return _table(directory, executor, seen, files, None if forced else seed)


@dataclass(frozen=True)
class _Run:
    loaded: LoadedModel
    columns: Mapping[str, slice]
    seed: int
    progress: Progress
    failed: Failed

    def observe(self, inputs: Iterable[_Input], *, forced: bool) -> Iterator[tuple[_Input, dict[str, Histogram], int]]:
        """Yields each input with its histograms and steps when it ends."""
        running: list[tuple[_Input, dict[str, Histogram]]] = []

        def utterances() -> Iterator[Forced]:
            for file, utterance in (self._recorded if forced else self._drawn)(inputs):
                running.append((file, {name: Histogram() for name in self.columns}))
                yield utterance

        for piece in self.loaded.forced_pieces(utterances()):
            file, histograms = running[piece.stream]
            for name, columns in self.columns.items():
                try:
                    histograms[name].add(piece.logits[:, columns])
                except CalibrationError as error:
                    raise CalibrationError(
                        f"{file.path}: input of {name} is not finite ({error}): the model is damaged; export it again"
                    ) from None
            steps = len(piece.logits)
            self.progress(steps if forced else steps - steps // 2)
            if piece.last:
                running[piece.stream] = file, {}
                yield file, histograms, piece.start + steps

    def _recorded(self, inputs: Iterable[_Input]) -> Iterator[tuple[_Input, Forced]]:
        audio, coding = self.loaded.audio, self.loaded.coding
        for file in inputs:
            try:
                speech = analyse_speech(audio, *read_audio(file.path))
            except Exception as error:  # any fault of one file leaves the others usable
                self.failed(file.path, reason_of(error))
                continue
            steps = speech.mel.shape[1] * audio.hop_length
            # The model's output is delayed; silence is fed before the recording.
            yield file, (speech.mel, coding.samples(np.pad(speech.waveform, (audio.delay, 0)))[:steps])

    def _drawn(self, inputs: Iterable[_Input]) -> Iterator[tuple[_Input, Forced]]:
        loaded = self.loaded
        drawing: list[tuple[_Input, FloatArray, list[NDArray[Any]]]] = []

        def streams() -> Iterator[Stream]:
            for file in inputs:
                try:
                    mel = check_mel(read_mel(file.path), loaded.audio)
                    utterance = prepare(Request(mel, self.seed), loaded)
                    stream = Stream(utterance.condition(), utterance.uniforms(0), 0, utterance.steps)
                except Exception as error:
                    self.failed(file.path, reason_of(error))
                    continue
                drawing.append((file, mel, []))
                yield stream

        for piece in decode_streams(loaded.executor, loaded.windows, streams(), loaded.slots()):
            file, mel, samples = drawing[piece.stream.number]
            samples.append(piece.samples)
            self.progress(len(piece.samples) // 2)
            if piece.last:
                drawing[piece.stream.number] = file, mel[:, :0], []
                yield file, (mel, np.concatenate(samples))


def _are_recordings(inputs: Sequence[Path]) -> bool:
    mels = [path for path in inputs if is_mel(path)]
    if not inputs:
        raise CalibrationError("found no input, expected recordings of speech, or mels (.npy, .npz, .pt)")
    if mels and len(mels) < len(inputs):
        raise CalibrationError(
            f"found mels ({mels[0]}) among recordings, expected one kind: give the recordings only, which measure more"
        )
    return not mels


def _identify(inputs: Sequence[Path], failed: Failed, notice: Notice) -> list[_Input]:
    """Returns files with their hashes, sorted by names and hashes; one file for each content."""
    found: list[_Input] = []
    for path in inputs:
        try:
            check_regular(path)
            found.append(_Input(path, file_sha256(path)))
        except (ValueError, OSError) as error:
            failed(path, reason_of(error))
    unique: dict[str, _Input] = {}
    for file in sorted(found, key=lambda file: (file.path.name, file.sha256)):
        unique.setdefault(file.sha256, file)
    if len(unique) < len(found):
        notice(f"{len(found) - len(unique)} files have the content of others and are counted once")
    return list(unique.values())


def _begin(
    partial: Path | None,
    settings: dict[str, Any],
    executor: ObservingExecutor,
    files: Sequence[_Input],
    notice: Notice,
) -> Observations:
    """Returns the observations of an earlier run where they fit this one, else empty ones."""
    if partial is not None and partial.exists():
        try:
            seen = read_observations(partial, settings, executor.columns, {file.sha256 for file in files})
        except (MisfitError, OSError) as error:
            notice(f"{partial}: the results of an earlier run are not used: {error}")
        else:
            notice(f"continuing from {partial}: {len(seen.done)} of {len(files)} files are done")
            return seen
    return Observations({name: Histogram() for name in executor.columns})


def _table(
    directory: ModelDirectory,
    executor: ObservingExecutor,
    seen: Observations,
    files: Sequence[_Input],
    seed: int | None,
) -> CalibrationTable:
    if not seen.done:
        raise CalibrationError(
            "none of the files can be used, expected recordings of speech, or mels (.npy, .npz, .pt)"
        )
    inputs = tuple(
        CalibrationInput(file.path.name, file.sha256, seen.done[file.sha256])
        for file in files
        if file.sha256 in seen.done
    )
    ranges = {
        name: ActivationRange(found.values, found.largest, find_bounds(found, state=name in executor.states))
        for name, found in seen.histograms.items()
    }
    source = str(directory.source.get("checkpoint", directory.path.name))
    return CalibrationTable(model_hash(directory), source, seed is None, seed, inputs, ranges)


def _raise(path: Path, reason: str) -> None:
    raise CalibrationError(f"{path}: {reason.removeprefix(f'{path}: ')}")
