"""Measures a voice and writes samples of it: `python -m wavernn_trt.scripts.training.present --help`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavernn_trt.calibration.score import Moments, Speech, analyse_speech, compare_speech, fit_speech
from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.model_directory import WEIGHTS
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.files.audio import read_audio, write_wav
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.arguments import positive_integer, positive_number
from wavernn_trt.scripts.bench.machine import MachineWatch, describe_machine, describe_versions
from wavernn_trt.scripts.training.mel_picture import draw_mels, need_matplotlib

_ROUNDS = 5


def figures(vocoder: Vocoder, speeches: Sequence[Speech], seeds: int = 3) -> dict[str, Any]:
    """Measures a voice.

    Args:
        vocoder: the voice.
        speeches: recordings that are not in its training data.
        seeds: number of outputs per recording.

    Returns:
        ``bits`` per sample; ``correlation`` of the log-mels, for each seed; ``ceiling``, the correlation of the
        recordings quantised to the voice's classes; ``seconds`` of speech; ``bytes`` of the decoder's weights.
    """
    fits = [fit for _, fit in fit_speech(vocoder.loaded, speeches)]
    samples = sum(fit.samples for fit in fits)
    correlations = []
    for seed in range(seeds):
        moments = Moments()
        for _, likeness in compare_speech(vocoder, speeches, seed=seed):
            moments += likeness.moments
        if moments.correlation is None:
            raise VocoderError("the voice's output for these recordings is constant, so that no correlation is defined")
        correlations.append(moments.correlation)
    audio, coding = vocoder.config.audio, SampleCoding(vocoder.config.model, vocoder.config.audio)
    ceiling = Moments()
    for speech in speeches:
        coded = coding.waveform(coding.samples(speech.waveform))
        ceiling += Moments.of(mel_spectrogram(coded, audio), speech.mel)
    return {
        "bits": sum(fit.bits for fit in fits) / samples,
        "correlation": correlations,
        "ceiling": ceiling.correlation,
        "seconds": samples / vocoder.sample_rate,
        "bytes": vocoder.loaded.path.joinpath(WEIGHTS).stat().st_size,
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


def present(
    vocoder: Vocoder, name: str, clips: dict[str, Speech], folder: Path, *, listen: int, seconds: float
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


def row(result: dict[str, Any]) -> str:
    """Returns the README's row of a voice, from its JSON: bits, correlation, ceiling, real-time factor, size."""
    speed = result["real_time_factor"]
    return (
        f"| {result['voice']} | {result['bits']:.3f} | {statistics.median(result['correlation']):.3f} "
        f"| {result['ceiling']:.3f} | {speed['median']:.2f} ({speed['least']:.2f} … {speed['most']:.2f}) "
        f"| {result['bytes'] / 1e6:.1f} MB |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 2 after an error of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.present",
        description="Measure a voice on recordings that are not in its training data, and write samples to listen to.",
        epilog="Writes to FOLDER: CLIP.wav and CLIP-NAME.wav for the first clips, NAME.png with their spectrograms, "
        "and NAME.json with bits per sample, the correlation of log-mels for three seeds and its ceiling (that of the "
        "recordings quantised to the voice's classes), the real-time factor on one CPU thread, and the size. Prints "
        "the voice's row for the README.",
    )
    parser.add_argument("voice", type=Path, help="model directory")
    parser.add_argument("recordings", type=Path, nargs="+", help="recordings, FLAC or WAV")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="output folder, created if missing"
    )
    parser.add_argument("--name", help="name of the voice (default: its folder's name)")
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
        with Vocoder.load(options.voice, "onnxruntime", threads=1) as vocoder:
            clips = {path.stem: analyse_speech(vocoder.loaded.audio, *read_audio(path)) for path in options.recordings}
            if len(clips) < len(options.recordings):
                raise VocoderError("recordings: found two of the same name, expected different names")
            result: dict[str, Any] = {"voice": name, "clips": list(clips)} | figures(vocoder, list(clips.values()))
            watch = MachineWatch()
            result["real_time_factor"] = real_time_factor(vocoder, next(iter(clips.values())))
            result |= {"others_share": watch.others_share(), "date": time.strftime("%Y-%m-%d")}
            result |= {"machine": describe_machine(), "versions": describe_versions()}
            write_atomic(options.output / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
            present(vocoder, name, clips, options.output, listen=options.listen, seconds=options.seconds)
    except (ValueError, OSError) as error:
        print(f"present: {error}", file=sys.stderr)
        return 2
    print(row(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
