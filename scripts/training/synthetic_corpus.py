"""Makes a corpus of synthetic speech with labels: `python -m wavernn_trt.scripts.training.synthetic_corpus --help`.

The speaker is hibari-tts, whose licence (Apache-2.0) allows training on its output. It computes some 28 hours of speech
an hour on one CPU core, and also gives the phonemes, their durations and the fundamental frequency.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.runtime.files.audio import resample
from wavernn_trt.runtime.jobs.result import Stop
from wavernn_trt.runtime.streaming.pcm import to_int16
from wavernn_trt.scripts.arguments import positive_integer, positive_number
from wavernn_trt.scripts.extras import need
from wavernn_trt.scripts.interruption import interruptible

SAMPLE_RATE = 16000
"""Hz of the clips."""
PEAK = 0.7
"""Largest absolute sample of a clip, as `train` and copy synthesis scale recordings."""
SHORTEST = 1.0
"""Shorter speech in seconds is dropped: `train` needs a second."""
DURATION_FRAMES = 2
"""Frames of f0 in one unit of a duration: 25 ms."""
_DISTRIBUTION = "hibari-tts"
_DURATIONS = "/Clip_output_0"
"""Tensor in the speaker's graph: float [phonemes], durations."""
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total} s [{elapsed}<{remaining}]"
_ORIGIN = (
    "Speech of hibari-tts (Apache-2.0), which was distilled from the voice af_heart of Kokoro-82M (Apache-2.0). "
    "Kokoro-82M's model card says that a part of its training data is synthetic speech of closed services. "
    "See NOTICE."
)


@dataclass(frozen=True)
class Clip:
    """A spoken text with its labels."""

    waveform: NDArray[np.float32]
    """[samples] at ``SAMPLE_RATE``, scaled to ``PEAK``."""
    phonemes: str
    """In the speaker's alphabet, that of misaki and Kokoro; a line per sentence."""
    ids: NDArray[np.int64]
    """[n]: numbers of the phonemes in the speaker's vocabulary; 0 is the silence before and after a sentence."""
    durations: NDArray[np.int64]
    """[n]: of each id, in units of 25 ms."""
    f0: NDArray[np.float32]
    """[2 * sum(durations)]: fundamental frequency in Hz every 12.5 ms; below 40 where unvoiced."""


class Speaker:
    """hibari-tts with its voice "heart", on one CPU thread."""

    def __init__(self) -> None:
        """Raises a ValueError if packages are missing or the model lacks the durations."""
        need("synthetic_corpus", ("hibari", "onnx", "onnxruntime"), extra="train")
        import hibari
        import onnx
        import onnxruntime

        self._tts = hibari.Hibari()
        content = Path(self._tts.model_path).read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        graph = onnx.load_from_string(content)
        if not any(_DURATIONS in node.output for node in graph.graph.node):
            raise ValueError(f"{self._tts.model_path}: found no tensor {_DURATIONS}, expected the model of version 0.2")
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(_DURATIONS))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def speak(self, text: str, seed: Sequence[int]) -> Clip | None:
        """Speaks a text; returns ``None`` if the speech is too short for training.

        Args:
            text: English, one or more sentences.
            seed: of the noise in the speech; non-negative integers.
        """
        from hibari import dsp

        noise = np.random.default_rng(list(seed))
        sentences: list[str] = []
        parts: list[tuple[Any, ...]] = []
        for phonemes in self._tts.phonemize(text):
            ids = np.array(self._tts.ids(phonemes), np.int64)
            if len(ids) < 3:  # nothing between the silences
                continue
            outputs = self._session.run(None, {"ids": ids[None], "speed": np.ones(1, np.float32)})
            *spectra, f0 = (output[0] for output in outputs[:-1])
            units = np.rint(outputs[-1]).astype(np.int64)
            if DURATION_FRAMES * units.sum() != len(f0):
                raise ValueError(f"{text!r}: durations of {units.sum()} units and {len(f0)} frames of f0 do not match")
            sentences.append(phonemes)
            parts.append((dsp.synth(*spectra, f0, noise), ids, units, f0))
        if not parts:
            return None
        speech, ids, units, f0 = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        waveform = resample(speech, dsp.SR, SAMPLE_RATE)
        peak = float(np.abs(waveform).max())
        if len(waveform) < SHORTEST * SAMPLE_RATE or not peak:
            return None
        return Clip(waveform * np.float32(PEAK / peak), "\n".join(sentences), ids, units, f0)


def read_sentences(path: Path) -> list[str]:
    """Reads a text file with a sentence per line; skips empty lines and repeated sentences.

    Raises:
        ValueError: it is not UTF-8, or has no sentence.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text ({error})") from None
    sentences = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not sentences:
        raise ValueError(f"{path}: found no sentence, expected one per line")
    return sentences


def write_clip(clip: Clip, path: Path) -> None:
    """Writes ``path`` (FLAC, 16 bits) and, before it, the labels beside it (``.npz``)."""
    import soundfile

    labels, audio = io.BytesIO(), io.BytesIO()
    np.savez_compressed(
        labels,
        phonemes=np.array(clip.phonemes),
        ids=clip.ids.astype(np.int16),
        durations=clip.durations.astype(np.int16),
        f0=clip.f0,
    )
    soundfile.write(audio, to_int16(clip.waveform), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    write_atomic(path.with_suffix(".npz"), labels.getbuffer())
    write_atomic(path, audio.getbuffer())


def describe(speaker: Speaker, sentences: Path, kept_out: int, seed: int) -> dict[str, Any]:
    """Returns the content of ``corpus.json``: what the corpus is made from, and how."""
    return {
        "origin": _ORIGIN,
        "licence": "Apache-2.0",
        "speaker": {
            "package": _DISTRIBUTION,
            "version": importlib.metadata.version(_DISTRIBUTION),
            "voice": "heart",
            "model_sha256": speaker.sha256,
        },
        "sentences": {"file": sentences.name, "sha256": hashlib.sha256(sentences.read_bytes()).hexdigest()},
        "sample_rate": SAMPLE_RATE,
        "peak": PEAK,
        "duration_unit_seconds": 0.025,
        "f0_frame_seconds": 0.0125,
        "kept_out_sentences": kept_out,
        "seed": seed,
    }


def prepare_folder(output: Path, description: dict[str, Any]) -> None:
    """Writes ``corpus.json`` and the speaker's NOTICE.

    Raises:
        ValueError: the folder has a corpus made in another way.
    """
    path, content = output / "corpus.json", (json.dumps(description, indent=1) + "\n").encode()
    if path.exists() and path.read_bytes() != content:
        raise ValueError(f"{output}: found a corpus of other sentences, seed or version; choose another folder")
    files = importlib.metadata.files(_DISTRIBUTION) or []
    for notice in (file for file in files if file.name == "NOTICE"):
        write_atomic(output / "NOTICE", Path(str(notice.locate())).read_bytes())
    write_atomic(path, content)


def make_corpus(
    sentences: Sequence[str],
    speaker: Speaker,
    output: Path,
    *,
    hours: float,
    kept_out: int,
    seed: int,
    progress: Callable[[float], object],
    stop: Stop,
) -> float:
    """Writes ``sNNNNN.flac`` with labels for sentences in a random order; clips of an earlier run are kept.

    The first sentences of the order go to ``kept-out/``, the others to ``training/``, so that no sentence is in both.
    At the end, the texts are written to ``metadata.csv`` in each of the two, in the layout of LJ Speech.

    Args:
        sentences: English; NNNNN is a sentence's index.
        speaker: to speak them.
        output: the corpus's folder.
        hours: of speech in ``training/``; less if the sentences do not suffice.
        kept_out: number of sentences for ``kept-out/``.
        seed: of the order and of the noise in the speech.
        progress: called with the seconds of speech added to ``training/``.
        stop: ends the work early.

    Returns:
        Hours of speech in ``training/``.
    """
    import soundfile

    testing, training = output / "kept-out", output / "training"
    texts: dict[Path, list[str]] = {testing: [], training: []}
    total = 0.0
    for index in np.random.default_rng(seed).permutation(len(sentences)).tolist():
        if total >= hours * 3600 or stop.requested:
            break
        folder = testing if len(texts[testing]) < kept_out else training
        path = folder / f"s{index:05d}.flac"
        if not path.exists():
            clip = speaker.speak(sentences[index], (seed, index))
            if clip is None:
                continue
            write_clip(clip, path)
        texts[folder].append(f"{path.stem}|{sentences[index].replace('|', ' ')}\n")
        if folder == training:
            seconds = soundfile.info(path).duration
            total += seconds
            progress(seconds)
    for folder, lines in texts.items():
        write_atomic(folder / "metadata.csv", "".join(sorted(lines)).encode())
    return total / 3600


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 2 after an error of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.synthetic_corpus",
        description="Make a corpus of synthetic speech to train a voice on: hibari-tts speaks sentences on one CPU "
        "thread, some 28 hours of speech an hour.",
        epilog="Writes to OUTPUT: training/ and kept-out/ with a clip per sentence (sNNNNN.flac, 16 kHz; NNNNN counts "
        "the file's different sentences), its labels (sNNNNN.npz: phonemes, their ids and durations, f0) and the texts "
        "(metadata.csv, for 'wavernn-trt score --transcripts'); corpus.json, "
        "what it is made from; and the speaker's NOTICE, which has to accompany what is trained on the corpus. "
        "The same command continues an interrupted run. Then run: "
        "python -m wavernn_trt.scripts.training.train OUTPUT/training VOICE.",
    )
    parser.add_argument("sentences", type=Path, metavar="SENTENCES", help="UTF-8 text file, an English sentence a line")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="output folder")
    parser.add_argument(
        "--hours", type=positive_number, default=5.0, metavar="H", help="speech in training/ (default: %(default)s)"
    )
    parser.add_argument(
        "--kept-out",
        type=positive_integer,
        default=40,
        metavar="N",
        help="sentences in kept-out/ (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order and of the noise (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        if options.seed < 0:
            raise ValueError(f"--seed: found {options.seed}, expected an integer from 0 on")
        sentences = read_sentences(options.sentences)
        if len(sentences) <= options.kept_out:
            raise ValueError(f"{options.sentences}: {len(sentences)} sentences, expected more than --kept-out")
        wanted = round(3600 * options.hours)
        speaker = Speaker()
        prepare_folder(options.output, describe(speaker, options.sentences, options.kept_out, options.seed))
        with (
            interruptible() as interruption,
            tqdm(total=wanted, desc="speech", file=sys.stderr, bar_format=_BAR) as bar,
        ):
            hours = make_corpus(
                sentences,
                speaker,
                options.output,
                hours=options.hours,
                kept_out=options.kept_out,
                seed=options.seed,
                progress=lambda seconds: bar.update(min(seconds, wanted - bar.n)),
                stop=interruption.stop,
            )
    except (ValueError, OSError) as error:
        print(f"synthetic_corpus: {error}", file=sys.stderr)
        return 2
    if interruption.signal:
        return 128 + interruption.signal
    print(json.dumps({"training_hours": round(hours, 3), "folder": str(options.output)}))
    if hours < options.hours:
        print(f"synthetic_corpus: the sentences suffice for {hours:.2f} hours only", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
