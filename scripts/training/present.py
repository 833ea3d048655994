"""Measures a voice and writes samples of it: `python -m wavernn_trt.scripts.training.present --help`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_trt.calibration.judge import Judge, read_transcripts
from wavernn_trt.calibration.likeness import Likeness, Moments
from wavernn_trt.calibration.score import Speech, analyse_speech, compare_speech, fit_speech
from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.files.audio import read_audio, write_wav
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.arguments import positive_integer, positive_number
from wavernn_trt.scripts.bench.machine import MachineWatch, describe_machine, describe_versions
from wavernn_trt.scripts.recordings import find_recordings
from wavernn_trt.scripts.training.listening_page import write_page
from wavernn_trt.scripts.training.mel_picture import draw_mels, need_matplotlib

_ROUNDS = 5


def figures(
    vocoder: Vocoder, speeches: Sequence[Speech], *, seeds: int = 3, judge: Judge | None = None
) -> dict[str, Any]:
    """Measures a voice.

    Args:
        vocoder: the voice.
        speeches: recordings that are not in its training data.
        seeds: number of outputs per recording.
        judge: also judges pitch, voicing and words.

    Returns:
        ``bits`` per sample; the measures of `Likeness.measures`, each a list with a value for each seed; ``ceiling``,
        the correlation of the recordings quantised to the voice's classes; ``seconds`` of speech; ``bytes`` of the
        model directory.
    """
    fits = [fit for _, fit in fit_speech(vocoder.loaded, speeches)]
    samples = sum(fit.samples for fit in fits)
    sums = {seed: Likeness() for seed in range(seeds)}
    for _, seed, likeness in compare_speech(vocoder, speeches, seeds=list(sums), judge=judge):
        sums[seed] += likeness
    measures = [each.measures() for each in sums.values()]
    if any(each["correlation"] is None for each in measures):
        raise VocoderError("the voice's output for these recordings is constant, so that no correlation is defined")
    audio, coding = vocoder.config.audio, SampleCoding(vocoder.config.model, vocoder.config.audio)
    ceiling = Moments()
    for speech in speeches:
        coded = coding.waveform(coding.samples(speech.waveform))
        ceiling += Moments.of(mel_spectrogram(coded, audio), speech.mel)
    return {
        "bits": sum(fit.bits for fit in fits) / samples,
        **{name: values for name in measures[0] if None not in (values := [each[name] for each in measures])},
        "ceiling": ceiling.correlation,
        "seconds": samples / vocoder.sample_rate,
        "bytes": sum(file.stat().st_size for file in vocoder.loaded.path.iterdir() if file.is_file()),
    }


def real_time_factor(vocoder: Vocoder, speech: Speech) -> dict[str, float]:
    """Measures the time per second of speech for one stream: median and range over some rounds."""
    times = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        waveform = vocoder.vocode(speech.mel)
        times.append((time.perf_counter() - began) * vocoder.sample_rate / len(waveform))
    warm = times[1:]
    return {"median": statistics.median(warm), "least": min(warm), "most": max(warm)}


def write_samples(
    vocoder: Vocoder, name: str, clips: Mapping[str, Speech], folder: Path, *, listen: int, seconds: float
) -> None:
    """Writes ``CLIP.wav``, ``CLIP-NAME.wav`` and ``NAME.png``.

    Args:
        vocoder: the voice.
        name: of the voice.
        clips: name -> recording.
        folder: output folder.
        listen: number of clips to write, in order.
        seconds: of each clip, from its start.
    """
    audio = vocoder.config.audio
    rows = []
    for clip, speech in list(clips.items())[:listen]:
        count = min(len(speech.waveform), round(seconds * audio.sample_rate))
        output = vocoder.vocode(speech.mel)[audio.delay :][:count]
        for title, waveform in ((clip, speech.waveform[:count]), (f"{clip}-{name}", output)):
            write_wav(folder / f"{title}.wav", waveform, audio.sample_rate)
            rows.append((title, mel_spectrogram(np.asarray(waveform, np.float32), audio)))
    draw_mels(rows, audio, folder / f"{name}.png")


def row(result: Mapping[str, Any]) -> str:
    """Returns the README's row of a voice, from its JSON.

    Its columns: voice, recordings, bits, correlation, ceiling, mel-cepstral distortion, words wrong of output and
    recording, real-time factor and size. Of several seeds: the median.
    """

    def median(name: str, form: str) -> str:
        return format(statistics.median(result[name]), form) if name in result else "-"

    speed = result["real_time_factor"]
    return (
        f"| {result['voice']} | {result['recordings']} | {result['bits']:.3f} | {median('correlation', '.3f')} "
        f"| {result['ceiling']:.3f} | {median('distortion_db', '.1f')} dB "
        f"| {median('words_wrong', '.0%')} / {median('recording_words_wrong', '.0%')} "
        f"| {speed['median']:.2f} ({speed['least']:.2f} … {speed['most']:.2f}) | {result['bytes'] / 1e6:.1f} MB |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 2 after an error of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.present",
        description="Measure a voice on recordings that are not in its training data, and write samples to listen to.",
        epilog="Writes to FOLDER: CLIP.wav and CLIP-NAME.wav for the first clips; NAME.png with their spectrograms; "
        "NAME.json with bits per sample, the measures of 'wavernn-trt score' for each seed, the ceiling of the "
        "correlation (that of the recordings quantised to the voice's classes), the real-time factor on one CPU "
        "thread, and the size; and index.html, a page to compare by ear all voices presented in the folder. "
        "Prints the voice's row for the README.",
    )
    parser.add_argument("voice", type=Path, help="model directory")
    parser.add_argument("recordings", type=Path, nargs="+", help="recordings, or folders of them")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="output folder, created if missing"
    )
    parser.add_argument("--name", help="name of the voice (default: its folder's name)")
    parser.add_argument(
        "--recordings-name", metavar="TEXT", help="name of the recordings (default: the first one's folder)"
    )
    parser.add_argument("--backend", default="auto", help="as for 'wavernn-trt vocode' (default: %(default)s)")
    parser.add_argument(
        "--seeds",
        type=positive_integer,
        default=3,
        metavar="N",
        help="outputs per recording that are measured (default: %(default)s)",
    )
    parser.add_argument("--judge", action="store_true", help="also measure f0 and voicing (extra 'judge')")
    parser.add_argument(
        "--transcripts", type=Path, metavar="FILE", help="texts of the recordings, to count wrong words (extra 'judge')"
    )
    parser.add_argument(
        "--listen",
        type=positive_integer,
        default=1,
        metavar="N",
        help="clips to write (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=3.0,
        metavar="S",
        help="length of written clips (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    name = Path(options.name or options.voice.resolve().name).name
    try:
        need_matplotlib()
        judge = Judge() if options.judge or options.transcripts else None
        texts = read_transcripts(options.transcripts) if options.transcripts else {}
        with Vocoder.load(options.voice, options.backend, threads=1) as vocoder:
            paths = find_recordings(options.recordings)
            clips = {
                path.stem: replace(analyse_speech(vocoder.loaded.audio, *read_audio(path)), text=texts.get(path.stem))
                for path in paths
            }
            if len(clips) < len(paths):
                raise VocoderError("recordings: found two of the same name, expected different names")
            recordings = options.recordings_name or paths[0].resolve().parent.name
            result: dict[str, Any] = {"voice": name, "recordings": recordings, "clips": list(clips)}
            result |= {"backend": vocoder.backend, "precision": vocoder.precision}
            result |= figures(vocoder, list(clips.values()), seeds=options.seeds, judge=judge)
            watch = MachineWatch()
            result["real_time_factor"] = real_time_factor(vocoder, next(iter(clips.values())))
            result |= {"others_share": watch.others_share(), "date": time.strftime("%Y-%m-%d")}
            result |= {"machine": describe_machine(), "versions": describe_versions()}
            write_samples(vocoder, name, clips, options.output, listen=options.listen, seconds=options.seconds)
            result["listen"] = list(clips)[: options.listen]
            write_atomic(options.output / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
            write_page(options.output)
    except (ValueError, OSError) as error:
        print(f"present: {error}", file=sys.stderr)
        return 2
    print(row(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
