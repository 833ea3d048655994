"""Published level conventions of mel spectrograms, and the conversion from each to a model's own.

Levels are converted through mel magnitudes: convention -> magnitude -> model. All other settings (sample rate, hop
length, window, mel filters, lowest and highest frequency, pre-emphasis) are fixed when a mel is computed and cannot be
converted afterwards; `differences` lists them.

Sources:

=============  =====================================================================================================
tacotron2      NVIDIA/tacotron2 audio_processing.py (``dynamic_range_compression``: ln of at least 1e-5), hparams.py;
               as-ideas/ForwardTacotron utils/dsp.py, hparams.py; NVIDIA/waveglow mel2samp.py computes mels with
               Tacotron 2's code
hifigan        jik876/hifi-gan meldataset.py (the same levels; frames are not centred on multiples of the hop)
bigvgan        NVIDIA/BigVGAN meldataset.py (as hifigan)
vocos          gemelo-ai/vocos vocos/modules.py (``safe_log``: ln of at least 1e-7), vocos/feature_extractors.py
coqui          coqui-ai/TTS TTS/config/shared_configs.py, TTS/utils/audio/numpy_transforms.py;
               mozilla/TTS TTS/tts/configs/config.json
fatchord       fatchord/WaveRNN utils/dsp.py (``melspectrogram`` subtracts no reference), hparams.py
rtvc           CorentinJ/Real-Time-Voice-Cloning synthesizer/audio.py, synthesizer/hparams.py; vocoder/inference.py
               divides by ``mel_max_abs_value`` before the vocoder sees the mel
univoc         bshall/UniversalVocoding preprocess.py (v0.2)
r9y9           r9y9/wavenet_vocoder audio.py, hparams.py; G-Wang/WaveRNN-Pytorch audio.py, hparams.py
espnet         espnet/espnet espnet2/tts/feats_extract/log_mel_fbank.py; kan-bayashi/ParallelWaveGAN
               parallel_wavegan/bin/preprocess.py (log10 of at least 1e-10)
librosa-power  librosa.feature.melspectrogram with its defaults (the mel of a power spectrum, no logarithm)
librosa-db     librosa.power_to_db of that, with ref=1.0
=============  =====================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import magnitude_to_mel, mel_filterbank
from wavernn_trt.runtime.mel import checked_array
from wavernn_trt.runtime.mel_comparison.levels import NATURAL, mapped

_RAYLEIGH = math.sqrt(math.pi) / 2
"""Ratio of mean and root mean square of the magnitude of noise; on speech its mean error is within 0.2 dB."""
_MAX_DB = 120.0
"""No audio in [-1, 1] has mel magnitudes near this level; a larger one belongs to another convention."""


@dataclass(frozen=True)
class Convention:
    """Level convention of a project's mels, and the other settings that they usually have."""

    name: str
    summary: str
    """Meaning of a value, as one line for ``--help``."""
    scale: float | None
    """Units per decibel: value = scale * 20 log10(magnitude) + offset. ``None``: no logarithm."""
    offset: float = 0.0
    """Value of magnitude 1."""
    power: Literal[1, 2] = 1
    """Input of the mel filters: 1 for the magnitudes of the spectrum, 2 for their squares."""
    aliases: tuple[str, ...] = ()
    sample_rate: int | None = None
    """Hz; ``None`` here and below: the projects have no usual value."""
    hop_length: int | None = None
    """Samples."""
    win_length: int | None = None
    """Samples."""
    n_fft: int | None = None
    """Samples."""
    fmin: float | None = None
    """Hz."""
    fmax: float | None = None
    """Hz; ``math.inf`` is half the sample rate."""
    filters: str = "slaney"
    """``slaney`` and ``sum`` as in `AudioConfig.mel_norm`; ``htk`` is HTK's scale with filters of height one."""
    preemphasis: float | None = 0.0
    """Coefficient applied to the waveform."""
    note: str = ""
    """A difference that is not a setting."""


CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        "tacotron2", "ln of the magnitude, floor ln 1e-5 = -11.51 (NVIDIA's Tacotron 2, WaveGlow, ForwardTacotron)",
        NATURAL, aliases=("nvidia", "waveglow", "forwardtacotron"),
        sample_rate=22050, hop_length=256, win_length=1024, n_fft=1024, fmin=0.0, fmax=8000.0,
    ),
    Convention(
        "hifigan", "ln of the magnitude, floor ln 1e-5 (HiFi-GAN)",
        NATURAL,
        sample_rate=22050, hop_length=256, win_length=1024, n_fft=1024, fmin=0.0, fmax=8000.0,
        note="frames are centred half a hop later",
    ),
    Convention(
        "bigvgan", "ln of the magnitude, floor ln 1e-5 (BigVGAN, 22 kHz and 80 bands)",
        NATURAL,
        sample_rate=22050, hop_length=256, win_length=1024, n_fft=1024, fmin=0.0, fmax=math.inf,
        note="frames are centred half a hop later",
    ),
    Convention(
        "vocos", "ln of the magnitude, floor ln 1e-7 = -16.12 (Vocos)",
        NATURAL,
        sample_rate=24000, hop_length=256, win_length=1024, n_fft=1024, fmin=0.0, fmax=math.inf, filters="htk",
    ),
    Convention(
        "coqui", "[-4, 4]: 20 log10 of the magnitude - 20, from -100 dB (Coqui TTS, Mozilla TTS)",
        *mapped((-4.0, 4.0), 20.0, -100.0), aliases=("mozilla-tts",),
        sample_rate=22050, hop_length=256, win_length=1024, n_fft=1024, fmin=0.0, fmax=math.inf,
    ),
    Convention(
        "fatchord", "[0, 1]: 20 log10 of the magnitude, from -100 dB (fatchord's WaveRNN and Tacotron)",
        *mapped((0.0, 1.0), 0.0, -100.0),
        sample_rate=22050, hop_length=275, win_length=1100, n_fft=2048, fmin=40.0, fmax=math.inf,
    ),
    Convention(
        "rtvc", "[-4, 4]: mels of Real-Time-Voice-Cloning's synthesizer (its vocoder divides them by 4)",
        *mapped((-4.0, 4.0), 20.0, -100.0),
        sample_rate=16000, hop_length=200, win_length=800, n_fft=800, fmin=55.0, fmax=7600.0, preemphasis=0.97,
    ),
    Convention(
        "univoc", "[-1, 0]: 20 log10 of the magnitude - 20, from -80 dB (UniversalVocoding 0.2)",
        *mapped((-1.0, 0.0), 20.0, -80.0),
        sample_rate=16000, hop_length=200, win_length=800, n_fft=2048, fmin=50.0, fmax=math.inf, filters="sum",
        preemphasis=0.97,
    ),
    Convention(
        "r9y9", "[0, 1]: 20 log10 of the magnitude - 20, from -100 dB (r9y9's WaveNet, G-Wang's WaveRNN)",
        *mapped((0.0, 1.0), 20.0, -100.0),
        sample_rate=22050, hop_length=256, win_length=1024, n_fft=1024, fmin=125.0, fmax=7600.0, preemphasis=None,
    ),
    Convention(
        "espnet", "log10 of the magnitude, floor -10, before any mean-variance normalisation (ESPnet, ParallelWaveGAN)",
        0.05, aliases=("kan-bayashi", "parallel-wavegan"),
        fmin=80.0, fmax=7600.0,
    ),
    Convention(
        "librosa-power", "librosa.feature.melspectrogram with its defaults: power, no logarithm",
        None, power=2,
        sample_rate=22050, hop_length=512, win_length=2048, n_fft=2048, fmin=0.0, fmax=math.inf,
    ),
    Convention(
        "librosa-db", "librosa.power_to_db of librosa-power with ref=1.0",
        1.0, power=2,
        sample_rate=22050, hop_length=512, win_length=2048, n_fft=2048, fmin=0.0, fmax=math.inf,
    ),
)  # fmt: skip
"""Conventions that ``vocode --mel-from`` converts."""


def names() -> tuple[str, ...]:
    """Returns all names, each followed by its aliases."""
    return tuple(name for each in CONVENTIONS for name in (each.name, *each.aliases))


def find_convention(name: str) -> Convention:
    """Returns the convention of a name or alias.

    Raises:
        VocoderError: the name is not known.
    """
    for convention in CONVENTIONS:
        if name in (convention.name, *convention.aliases):
            return convention
    raise VocoderError(f"mel convention: found {name!r}, expected one of {', '.join(names())}")


def convert(mel: ArrayLike, convention: str, audio: AudioConfig) -> FloatArray:
    """Converts the levels of a mel spectrogram to a model's.

    Args:
        mel: float [n_mels, frames], in the convention's levels.
        convention: a name or alias in `CONVENTIONS`.
        audio: the model's audio settings (``vocoder.config.audio``).

    Returns:
        float32 [n_mels, frames]. For ``librosa-power`` and ``librosa-db`` the error is about 1 dB, up to 4 dB in single
        cells: the mean of a power spectrum under a filter does not determine the mean of its magnitudes.

    Raises:
        VocoderError: the convention is not known, or the mel has another shape or values outside the convention.
    """
    found = find_convention(convention)
    values = checked_array(mel, audio).astype(np.float64)
    if found.scale is None:
        if values.min() < 0:
            raise VocoderError(
                f"mel: found values down to {values.min():.4g}, expected none below 0: {found.name} has no logarithm"
            )
        level = values ** (1.0 / found.power)
        loudest = 20 * math.log10(max(float(level.max()), 1e-10))
    else:
        decibels = (values - found.offset) / found.scale
        loudest = float(decibels.max())
        level = 10.0 ** (np.minimum(decibels, _MAX_DB + 1) / 20)
    if loudest > _MAX_DB:
        raise VocoderError(
            f"mel: found values up to {values.max():.4g}, which is {loudest:.0f} dB in the convention {found.name} "
            f"({found.summary}); name the convention that it was computed in"
        )
    if found.power == 2:
        level *= _RAYLEIGH * np.sqrt(mel_filterbank(audio).sum(axis=1))[:, None]
    return magnitude_to_mel(level, audio)


def differences(convention: str, audio: AudioConfig) -> list[str]:
    """Describes how a convention's usual settings differ from a model's; level conversion does not remove these.

    Args:
        convention: a name or alias in `CONVENTIONS`.
        audio: the model's audio settings.

    Raises:
        VocoderError: the convention is not known.
    """
    return list(_differences(find_convention(convention), audio))


def _differences(found: Convention, audio: AudioConfig) -> Iterator[str]:
    nyquist = audio.sample_rate / 2
    fmax = found.fmax
    if fmax == math.inf:
        fmax = nyquist if found.sample_rate is None else found.sample_rate / 2
    pairs: tuple[tuple[str, float | str | None, float | str, str], ...] = (
        ("sample rate", found.sample_rate, audio.sample_rate, " Hz"),
        ("hop length", found.hop_length, audio.hop_length, " samples"),
        ("window", found.win_length, audio.win_length, " samples"),
        ("n_fft", found.n_fft, audio.n_fft, " samples"),
        ("mel filters", found.filters, audio.mel_norm, ""),
        ("fmin", found.fmin, audio.fmin, " Hz"),
        ("fmax", fmax, nyquist if audio.fmax is None else audio.fmax, " Hz"),
        ("pre-emphasis", found.preemphasis, audio.preemphasis, ""),
    )
    for name, usual, own, unit in pairs:
        if usual is not None and usual != own:
            shown = [value if isinstance(value, str) else f"{value:g}" for value in (usual, own)]
            yield f"{name} {shown[0]}{unit}, the model {shown[1]}{unit}"
    if found.power == 2:
        yield "mel of a power spectrum, the model of magnitudes (an error of about 1 dB)"
    if found.note:
        yield found.note
