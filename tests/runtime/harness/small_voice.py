"""A random model with the audio settings of the shipped voice, where a test needs speech-sized mels but not speech."""

from __future__ import annotations

from pathlib import Path

import wavernn_trt.runtime

SMALL_VOICE = Path(__file__).resolve().parents[2] / "fixtures" / "models" / "voice"
"""The model directory; its steps take a fifth of the shipped voice's time."""
SAMPLE_MEL = Path(next(iter(wavernn_trt.runtime.__path__))) / "voices" / "sample_mel.npy"
"""The packaged mel, of 240 frames."""
SMALL_ACOUSTIC = SMALL_VOICE.parents[1] / "acoustic"
"""Directory of a random acoustic model with the same audio settings; its phonemes are ASCII letters."""
