"""From recordings or mels to a calibration table."""

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
"""Of speech; less than that has hardly the sounds of a language."""

Failed = Callable[[Path, str], None]
"""Called with a file that cannot be used, and the reason."""
Notice = Callable[[str], None]
"""Called with remarks that are no errors."""
Forced = tuple[FloatArray, NDArray[Any]]
"""A mel, and the samples that its steps are fed with."""


@dataclass(frozen=True)
class _Given:
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
    """Runs a model and measures what its products read.

    Recordings are fed to it (teacher forcing). Of mels alone it draws samples first, and is then fed with those, which
    runs the states that drawing them did. The table depends on the model, the contents and names of the files and, for
    mels, the seed: not on their order, nor on the batch, the threads or interruptions. Of files with the same content
    one is run.

    Args:
        directory: a verified model directory, not quantised.
        inputs: recordings, resampled if need be, or ``.npy`` mels.
        seed: of the samples that are drawn of mels.
        batch: files at a time.
        threads: CPU threads.
        progress: called with the number of samples done; of a mel, half when they are drawn and half when they are fed.
        failed: called for each file that cannot be used, and the others go on; without it, the first such file raises.
        notice: called for files with the same content, an earlier run, and little speech.
        partial: a file to keep what is done in, after each input, and to go on from. It is still there at the
            end: the caller removes it once the table is stored.

    Raises:
        CalibrationError: nothing to run, a directory that is quantised, or a model that computes NaN.
        VocoderError: a seed or number that cannot be used.
        OSError: ``partial`` cannot be written.
    """
    check_seed(seed)
    on_failure = failed or _raise
    forced = _are_recordings(inputs)
    given = _identify(inputs, on_failure, notice)
    executor = ObservingExecutor(directory, threads)
    settings = {
        "model": model_hash(directory),
        "seed": None if forced else seed,
        "onnxruntime": onnxruntime.__version__,
    }
    seen = _begin(partial, settings, executor, given, notice)
    loaded = LoadedModel.of(directory, executor, options=LoadOptions("onnxruntime", batch, threads))
    run = _Run(loaded, executor.columns, seed, progress or _ignore, on_failure)
    for steps in seen.done.values():
        run.progress(steps)
    waiting = [one for one in given if one.sha256 not in seen.done]
    for one, histograms, steps in run.observe(waiting, forced=forced):
        for name, histogram in histograms.items():
            seen.histograms[name] += histogram
        seen.done[one.sha256] = steps
        if partial is not None:
            seen.write(partial, settings)
    seconds = sum(seen.done.values()) / directory.audio.sample_rate
    if 0 < seconds < LITTLE_SECONDS:
        notice(f"{seconds:.2f} s of speech is little: what it lacks will be clipped; ten seconds or more are good")
    return _table(directory, executor, seen, given, None if forced else seed)


@dataclass(frozen=True)
class _Run:
    loaded: LoadedModel
    columns: Mapping[str, slice]
    seed: int
    progress: Progress
    failed: Failed

    def observe(self, inputs: Iterable[_Given], *, forced: bool) -> Iterator[tuple[_Given, dict[str, Histogram], int]]:
        """Yields each input with its histograms and steps, as it ends."""
        running: list[tuple[_Given, dict[str, Histogram]]] = []

        def utterances() -> Iterator[Forced]:
            for one, utterance in (self._recorded if forced else self._drawn)(inputs):
                running.append((one, {name: Histogram() for name in self.columns}))
                yield utterance

        for piece in self.loaded.forced_pieces(utterances()):
            one, histograms = running[piece.stream]
            for name, columns in self.columns.items():
                try:
                    histograms[name].add(piece.logits[:, columns])
                except CalibrationError as error:
                    raise CalibrationError(
                        f"{one.path}: {name} reads what is not finite ({error}): the model is damaged; export it again"
                    ) from None
            steps = len(piece.logits)
            self.progress(steps if forced else steps - steps // 2)
            if piece.last:
                running[piece.stream] = one, {}
                yield one, histograms, piece.start + steps

    def _recorded(self, inputs: Iterable[_Given]) -> Iterator[tuple[_Given, Forced]]:
        audio, coding = self.loaded.audio, self.loaded.coding
        for one in inputs:
            try:
                speech = analyse_speech(audio, *read_audio(one.path))
            except Exception as error:  # whatever is wrong with one file, the others may do
                self.failed(one.path, reason_of(error))
                continue
            steps = speech.mel.shape[1] * audio.hop_length
            # The model emits a recording late; before, it is fed silence.
            yield one, (speech.mel, coding.samples(np.pad(speech.waveform, (audio.delay, 0)))[:steps])

    def _drawn(self, inputs: Iterable[_Given]) -> Iterator[tuple[_Given, Forced]]:
        loaded = self.loaded
        drawing: list[tuple[_Given, FloatArray, list[NDArray[Any]]]] = []

        def streams() -> Iterator[Stream]:
            for one in inputs:
                try:
                    mel = check_mel(read_mel(one.path), loaded.audio)
                    utterance = prepare(Request(mel, self.seed), loaded)
                    stream = Stream(utterance.condition(), utterance.uniforms(0), 0, utterance.steps)
                except Exception as error:
                    self.failed(one.path, reason_of(error))
                    continue
                drawing.append((one, mel, []))
                yield stream

        for piece in decode_streams(loaded.executor, loaded.windows, streams(), loaded.slots()):
            one, mel, samples = drawing[piece.stream.number]
            samples.append(piece.samples)
            self.progress(len(piece.samples) // 2)
            if piece.last:
                drawing[piece.stream.number] = one, mel[:, :0], []
                yield one, (mel, np.concatenate(samples))


def _are_recordings(inputs: Sequence[Path]) -> bool:
    mels = [path for path in inputs if is_mel(path)]
    if not inputs:
        raise CalibrationError("found no input, expected recordings of speech, or mels (.npy, .npz, .pt)")
    if mels and len(mels) < len(inputs):
        raise CalibrationError(
            f"found mels ({mels[0]}) among recordings, expected one kind: give the recordings alone, which say more"
        )
    return not mels


def _identify(inputs: Sequence[Path], failed: Failed, notice: Notice) -> list[_Given]:
    """Files and their hashes, in the order of names and hashes; one for each content."""
    found: list[_Given] = []
    for path in inputs:
        try:
            check_regular(path)
            found.append(_Given(path, file_sha256(path)))
        except (ValueError, OSError) as error:
            failed(path, reason_of(error))
    unique: dict[str, _Given] = {}
    for one in sorted(found, key=lambda one: (one.path.name, one.sha256)):
        unique.setdefault(one.sha256, one)
    if len(unique) < len(found):
        notice(f"{len(found) - len(unique)} files have the content of others, and are counted once")
    return list(unique.values())


def _begin(
    partial: Path | None,
    settings: dict[str, Any],
    executor: ObservingExecutor,
    given: Sequence[_Given],
    notice: Notice,
) -> Observations:
    """What an earlier run has done, where that fits, else nothing."""
    if partial is not None and partial.exists():
        try:
            seen = read_observations(partial, settings, executor.columns, {one.sha256 for one in given})
        except (MisfitError, OSError) as error:
            notice(f"{partial}: what an earlier run has left is not used: {error}")
        else:
            notice(f"going on from {partial}: {len(seen.done)} of {len(given)} files are done")
            return seen
    return Observations({name: Histogram() for name in executor.columns})


def _table(
    directory: ModelDirectory,
    executor: ObservingExecutor,
    seen: Observations,
    given: Sequence[_Given],
    seed: int | None,
) -> CalibrationTable:
    if not seen.done:
        raise CalibrationError(
            "none of the files can be used, expected recordings of speech, or mels (.npy, .npz, .pt)"
        )
    inputs = tuple(
        CalibrationInput(one.path.name, one.sha256, seen.done[one.sha256]) for one in given if one.sha256 in seen.done
    )
    ranges = {
        name: ActivationRange(one.values, one.largest, find_bounds(one, state=name in executor.states))
        for name, one in seen.histograms.items()
    }
    source = str(directory.source.get("checkpoint", directory.path.name))
    return CalibrationTable(model_hash(directory), source, seed is None, seed, inputs, ranges)


def _raise(path: Path, reason: str) -> None:
    raise CalibrationError(f"{path}: {reason.removeprefix(f'{path}: ')}")


def _ignore(samples: int) -> None:
    pass
