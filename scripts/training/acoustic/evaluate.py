"""Evaluates a voice on kept-out sentences: `python -m wavernn_trt.scripts.training.acoustic.evaluate --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wavernn_trt.calibration.judge import count_wrong, read_transcripts, recognise
from wavernn_trt.runtime.files.audio import read_audio
from wavernn_trt.runtime.speech.speaker import Controls, Speaker
from wavernn_trt.scripts.extras import need
from wavernn_trt.scripts.training.synthetic_corpus import DURATION_FRAMES


def evaluate(speaker: Speaker, folder: Path, seed: int) -> dict[str, Any]:
    """Speaks the sentences of a folder of synthetic_corpus and compares the speech with the folder's clips.

    Returns:
        Word error rates of the speech and the clips, as pocketsphinx hears them; errors of the phonemes' durations in
        seconds (mean, and the 95th percentile) and of the sentences' (mean share); the number of sentences and words.
    """
    transcripts = read_transcripts(folder / "metadata.csv")
    words = wrong = wrong_in_clips = 0
    errors, lengths = [], []
    second = speaker.acoustic.audio.hop_length / speaker.sample_rate
    for name, text in tqdm(sorted(transcripts.items()), desc="speaking", unit=" sentences", file=sys.stderr):
        speech = speaker.speak(text, Controls(seed=seed))
        count, mistaken = count_wrong(text, recognise(speech.waveform, speech.sample_rate))
        words, wrong = words + count, wrong + mistaken
        wrong_in_clips += count_wrong(text, recognise(*read_audio(folder / f"{name}.flac")))[1]
        with np.load(folder / f"{name}.npz") as labels:
            lines, durations = str(labels["phonemes"]).split("\n"), labels["durations"] * DURATION_FRAMES * second
        if len(lines) == 1:
            prosody = speaker.acoustic.prosody(lines[0])
            if len(prosody.symbols) == len(durations):
                errors.append(np.abs(prosody.durations * second - durations))
                lengths.append(prosody.durations.sum() * second / durations.sum() - 1)
    phonemes = np.concatenate(errors)
    return {
        "sentences": len(transcripts),
        "words": words,
        "words_wrong": wrong / words,
        "clips_words_wrong": wrong_in_clips / words,
        "duration_error_seconds": float(phonemes.mean()),
        "duration_error_seconds_95": float(np.quantile(phonemes, 0.95)),
        "length_error": float(np.abs(lengths).mean()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 2 after an error of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.acoustic.evaluate",
        description="Speak the kept-out sentences of a corpus with a voice, and compare with the corpus's clips: words "
        "wrong (pocketsphinx) and durations. Prints one JSON object.",
    )
    parser.add_argument("folder", type=Path, metavar="KEPT-OUT", help="folder kept-out/ of synthetic_corpus's output")
    parser.add_argument("--voice", help="as for 'wavernn-trt speak' (default: the shipped voice)")
    parser.add_argument("--seed", type=int, default=0, help="of the speech (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        need("evaluate", ("pocketsphinx", "jiwer"), extra="judge")
        with Speaker.load(options.voice) as speaker:
            print(json.dumps(evaluate(speaker, options.folder, options.seed), indent=1))
    except (ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
