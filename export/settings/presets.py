"""Presets: settings of published checkpoints, for values that their files do not state.

Values come from each project's code at the revision in ``source``. Tests compare with results of that code in
``tests/export/published``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wavernn_trt.export.config import Family, LabelScale


@dataclass(frozen=True)
class Preset:
    """The conventions of one version of one project."""

    name: str
    """As in ``--preset NAME``."""
    family: Family
    """The architecture."""
    about: str
    """One line: the project and its checkpoints."""
    source: str
    """Repository and revision of the values."""
    audio: Mapping[str, Any]
    """Fields of `AudioConfig`; those that follow from the weights' shapes may be missing."""
    mode: str | int | None = None
    """The kind of outputs; ``None`` where their number determines it."""
    mu_law: bool | None = None
    """Whether classes are companded; ``None`` where outputs are not classes."""
    label_scale: LabelScale = "symmetric"
    amplitude_feedback: bool = False
    """Whether decoded amplitudes are fed back."""
    adjustable: tuple[str, ...] = ()
    """Settings that the project's users change; reported as assumed where no source states them."""
    unread: tuple[str, ...] = ()
    """Keys that the project writes into its settings and never applies."""
    unit_range: bool = False
    """Whether the vocoder first divides mels by their largest level, ``max_abs_value``."""
    window_from_hop: bool = False
    """Whether a window in milliseconds is the hop in samples times the ratio of both durations."""
    refused: str | None = None
    """Why such a checkpoint cannot be exported."""


_FATCHORD: dict[str, Any] = {
    "sample_rate": 22050,
    "hop_length": 275,
    "win_length": 1100,
    "n_fft": 2048,
    "fmin": 40.0,
    "pad_mode": "reflect",
    "reference_db": 0.0,
    "min_level_db": -100.0,
    "mel_range": (0.0, 1.0),
}
_FORWARD: dict[str, Any] = {
    "sample_rate": 22050,
    "hop_length": 256,
    "win_length": 1024,
    "n_fft": 1024,
    "fmax": 8000.0,
    "pad_mode": "reflect",
    "log": "natural",
}
_GWANG: dict[str, Any] = {
    "sample_rate": 22050,
    "hop_length": 256,
    "win_length": 1024,
    "n_fft": 1024,
    "stft": "lws",
    "fmin": 125.0,
    "fmax": 7600.0,
    "preemphasis": 0.97,
    "reference_db": 20.0,
    "min_level_db": -100.0,
    "mel_range": (0.0, 1.0),
}
_TURIAN: dict[str, Any] = {
    "sample_rate": 16000,
    "hop_length": 200,
    "win_length": 800,
    "n_fft": 2048,
    "fmin": 95.0,
    "fmax": 7600.0,
    "reference_db": 20.0,
    "min_level_db": -100.0,
    "mel_range": (-4.0, 4.0),
}
_GENEING: dict[str, Any] = {**_TURIAN, "preemphasis": 0.97, "clip_high": False, "clip_low": False}
_MOZILLA_LEVELS: dict[str, Any] = {
    "sample_rate": 22050,
    "hop_length": 256,
    "win_length": 1024,
    "n_fft": 1024,
    "pad_mode": "reflect",
    "reference_db": 20.0,
    "min_level_db": -100.0,
    "mel_range": (-4.0, 4.0),
}
_COQUI: dict[str, Any] = {**_MOZILLA_LEVELS, "floor": 1e-8}
_MOZILLA: dict[str, Any] = {**_MOZILLA_LEVELS, "sample_rate": 24000, "fmin": 40.0, "fmax": 8000.0, "preemphasis": 0.98}
_EROGOL: dict[str, Any] = {
    **_MOZILLA_LEVELS,
    "hop_length": 275,
    "win_length": 1102,
    "n_fft": 2048,
    "fmax": 8000.0,
    "preemphasis": 0.98,
    "mel_range": (0.0, 1.0),
}
_UNIVOC_0_1: dict[str, Any] = {
    "sample_rate": 16000,
    "hop_length": 200,
    "win_length": 800,
    "n_fft": 2048,
    "fmin": 50.0,
    "pad_mode": "reflect",
    "preemphasis": 0.97,
    "reference_db": 0.0,
    "min_level_db": -100.0,
    "mel_range": (0.0, 1.0),
    "peak": 0.999,
}
_UNIVOC_0_2: dict[str, Any] = {
    "sample_rate": 16000,
    "hop_length": 200,
    "win_length": 800,
    "n_fft": 2048,
    "fmin": 50.0,
    "mel_norm": "sum",
    "pad_mode": "reflect",
    "preemphasis": 0.97,
    "reference_db": 20.0,
    "min_level_db": -80.0,
    "mel_range": (-1.0, 0.0),
    "clip_high": False,
    "delay": 400,
}

_FATCHORD_KEYS = ("sample_rate", "win_length", "n_fft", "fmin", "min_level_db", "mu_law")
_FORWARD_KEYS = ("sample_rate", "win_length", "n_fft", "fmin", "fmax", "mu_law")
_TURIAN_KEYS = ("sample_rate", "win_length", "n_fft", "fmin", "fmax", "reference_db", "min_level_db", "mu_law")
_COQUI_KEYS = (
    *("sample_rate", "hop_length", "win_length", "n_fft", "fmin", "fmax", "pad_mode", "preemphasis"),
    *("reference_db", "min_level_db", "mel_range", "clip_high", "mu_law"),
)
_UNIVOC_KEYS = (
    *("sample_rate", "hop_length", "win_length", "n_fft", "fmin", "preemphasis", "reference_db", "min_level_db"),
)
_GWANG_KEYS = ("sample_rate", "n_fft", "fmin", "fmax", "preemphasis", "reference_db", "min_level_db")
_GWANG_UNREAD = ("win_length", "rescaling", "rescaling_max", "allow_clipping_in_normalization")
_GENEING_UNREAD = (
    *("symmetric_mels", "signal_normalization", "allow_clipping_in_normalization", "preemphasize"),
    *("rescaling", "rescaling_max"),
)

_FATCHORD_SOURCE = "fatchord/WaveRNN 83c08fd: hparams.py, utils/dsp.py, models/fatchord_version.py"
_RTVC_SOURCE = "CorentinJ/Real-Time-Voice-Cloning 865eba8: vocoder/hparams.py, synthesizer/hparams.py"
_GWANG_SOURCE = "G-Wang/WaveRNN-Pytorch 7149631: hparams.py, audio.py, model.py"
_GENEING_SOURCE = "geneing/WaveRNN-Pytorch 7b317c4: hparams.py, audio.py, model.py"
_EROGOL_SOURCE = "erogol/WaveRNN 7c52874: config.json, utils/audio.py, models/wavernn.py"
_COQUI_SOURCE = "coqui-tts 0.27.2: vocoder/configs, utils/audio/processor.py, vocoder/models/wavernn.py"
_NO_BETA = (
    "each sample is drawn from a beta distribution, which is not supported; train with another output (input_type bits)"
)


def _gwang(kind: str, about: str, **more: Any) -> Preset:
    return Preset(
        f"gwang-{kind}",
        "fatchord",
        f"G-Wang/WaveRNN-Pytorch, {about}",
        _GWANG_SOURCE,
        _GWANG,
        adjustable=_GWANG_KEYS,
        unread=_GWANG_UNREAD,
        **more,
    )


def _geneing(kind: str, about: str, **more: Any) -> Preset:
    return Preset(
        f"geneing-{kind}",
        "turian",
        f"geneing/WaveRNN-Pytorch, {about}",
        _GENEING_SOURCE,
        _GENEING,
        adjustable=_TURIAN_KEYS[:-1],
        unread=_GENEING_UNREAD,
        **more,
    )


_ALL = (
    Preset(
        "fatchord",
        "fatchord",
        "fatchord/WaveRNN, LJ Speech (MOL 800k steps; 9 bit mu-law)",
        _FATCHORD_SOURCE,
        _FATCHORD,
        mu_law=True,
        adjustable=_FATCHORD_KEYS,
        unread=("ref_level_db",),
    ),
    Preset(
        "rtvc",
        "fatchord",
        "Real-Time-Voice-Cloning, vocoder.pt or pretrained.pt (9 bit mu-law, 16 kHz)",
        _RTVC_SOURCE,
        {
            **_FATCHORD,
            "sample_rate": 16000,
            "hop_length": 200,
            "win_length": 800,
            "n_fft": 800,
            "fmin": 55.0,
            "fmax": 7600.0,
            "preemphasis": 0.97,
            "reference_db": 20.0,
            "mel_range": (-1.0, 1.0),
            "waveform_preemphasis": 0.97,
            "peak": 0.9,
        },
        mu_law=True,
        adjustable=(*_FATCHORD_KEYS, "fmax", "preemphasis", "reference_db"),
        unit_range=True,
    ),
    Preset(
        "forwardtacotron-v1",
        "fatchord",
        "ForwardTacotron 1, wave_575K.pyt (9 bit mu-law, natural-log mels)",
        "as-ideas/ForwardTacotron 21db774: hparams.py, utils/dsp.py",
        _FORWARD,
        mu_law=True,
        adjustable=_FORWARD_KEYS,
    ),
    Preset(
        "forwardtacotron-v2",
        "fatchord",
        "ForwardTacotron 2 and 3, wave_step575k.pt (9 bit mu-law, natural-log mels)",
        "as-ideas/ForwardTacotron f537c5f: config.yaml, utils/dsp.py",
        _FORWARD,
        mu_law=True,
        adjustable=_FORWARD_KEYS,
    ),
    _gwang("bits", "9 or 10 bit linear classes", mu_law=False),
    _gwang("mulaw", "input_type mulaw: decoded amplitudes are fed back", mu_law=True, amplitude_feedback=True),
    _gwang("mixture", "input_type mixture: ten logistics", mode="mol"),
    _gwang("gaussian", "input_type raw, distribution gaussian", mode="gauss"),
    _gwang("beta", "input_type raw, distribution beta (112k steps)", mode="beta", refused=_NO_BETA),
    Preset(
        "torchaudio",
        "torchaudio",
        "torchaudio's pipelines TACOTRON2_WAVERNN_PHONE_LJSPEECH and _CHAR_ (8 bit mu-law)",
        "pytorch/audio 2.11.0: pipelines/_tts, models/wavernn.py; examples/pipeline_wavernn",
        _FATCHORD,
        mu_law=True,
        adjustable=_FATCHORD_KEYS,
    ),
    Preset(
        "erogol-lj",
        "coqui",
        "erogol/WaveRNN, LJ Speech (mixture of logistics; 10 bit)",
        _EROGOL_SOURCE,
        _EROGOL,
        mu_law=False,
        adjustable=_COQUI_KEYS,
    ),
    Preset(
        "erogol-universal",
        "coqui",
        "erogol/WaveRNN, universal vocoder on LibriTTS (mixture of logistics, 16 kHz)",
        f"{_EROGOL_SOURCE}, config_libri360.json",
        {**_EROGOL, "sample_rate": 16000, "hop_length": 200, "win_length": 800},
        mode="mold",
        adjustable=_COQUI_KEYS[:-1],
    ),
    Preset(
        "mozilla",
        "coqui",
        "mozilla/TTS, its configuration for LibriTTS (24 kHz)",
        "mozilla/TTS e9e0784: TTS/vocoder/configs/wavernn_config.json, TTS/utils/audio.py",
        _MOZILLA,
        mu_law=True,
        adjustable=_COQUI_KEYS,
        window_from_hop=True,
    ),
    Preset(
        "coqui", "coqui", "Coqui TTS wavernn, its defaults", _COQUI_SOURCE, _COQUI, mu_law=True, adjustable=_COQUI_KEYS
    ),
    Preset(
        "turian",
        "turian",
        "turian/WaveRNN-Pytorch (10 bit linear classes, mels of Tacotron-2)",
        "turian/WaveRNN-Pytorch eaa1ed4: myhparams.py, audio.py",
        _TURIAN,
        mu_law=False,
        adjustable=_TURIAN_KEYS,
        unread=("symmetric_mels", "signal_normalization"),
    ),
    _geneing("bits", "10 bit linear classes", mu_law=False),
    _geneing("mulaw", "input_type mulaw: decoded amplitudes are fed back", mu_law=True, amplitude_feedback=True),
    _geneing("mixture", "input_type mixture: ten logistics", mode="mol"),
    _geneing("beta", "input_type raw", mode="beta", refused=_NO_BETA),
    Preset(
        "univoc-0.1",
        "univoc",
        "UniversalVocoding 0.1, ZeroSpeech 2019 (9 bit; mels in [0, 1])",
        "bshall/UniversalVocoding v0.1 (86e13fb): config.json, utils.py, model.py",
        _UNIVOC_0_1,
        mu_law=True,
        adjustable=_UNIVOC_KEYS,
    ),
    Preset(
        "univoc-0.2",
        "univoc",
        "UniversalVocoding 0.2, univoc-ljspeech-7mtpaq.pt and PyPI's univoc (10 bit; mels in [-1, 0])",
        "bshall/UniversalVocoding v0.2 (3036e3e): univoc/config/config.yaml, preprocess.py",
        _UNIVOC_0_2,
        mu_law=True,
        label_scale="librosa",
        adjustable=_UNIVOC_KEYS,
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}
"""By name, in the order in which ``--list-presets`` prints them."""
