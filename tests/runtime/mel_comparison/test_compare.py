"""Each difference between a mel and a model's convention is named, and no other; librosa computes the mels."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from audio_conventions import PUBLISHED
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig
from wavernn_trt.export.settings.presets import PRESETS
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import mel_spectrogram
from wavernn_trt.runtime.files.audio import resample
from wavernn_trt.runtime.mel_comparison import MelComparison, compare_mel
from wavernn_trt.runtime.mel_comparison.warnings import mel_warnings

librosa = pytest.importorskip("librosa", reason="librosa computes the mels that are compared")

Array = NDArray[Any]
SAMPLES = Path(__file__).resolve().parents[3] / "runtime" / "voices" / "samples" / "lj-speech"


@dataclass(frozen=True)
class Fault:
    """A way to compute a mel that differs from the model's."""

    kind: str
    strength: object
    settings: dict[str, Any]
    """Arguments of `computed`."""
    shape: Callable[[Array], Array] = np.asarray


def computed(
    waveform: Array,
    rate: int,
    audio: AudioConfig,
    *,
    level: Callable[[Array, AudioConfig], Array] | None = None,
    norm: str | None = None,
    htk: bool = False,
    power: int = 1,
    sampled: int | None = None,
    assumed: int | None = None,
    in_time: bool = False,
    hop: int | None = None,
    skip: int = 0,
    gain: float = 1.0,
    **settings: Any,
) -> Array:
    """A recording's mel by librosa, with a model's settings except the given ones."""
    used = dataclasses.replace(audio, **settings)
    sampled = sampled or audio.sample_rate
    assumed = assumed or sampled
    scale = sampled / audio.sample_rate if in_time else 1.0
    signal = resample(waveform, rate, sampled).astype(np.float64)[skip:] * gain
    if used.peak is not None:
        signal *= used.peak / np.abs(signal).max()
    if used.preemphasis:
        signal = np.concatenate([signal[:1], signal[1:] - used.preemphasis * signal[:-1]])
    n_fft, window = round(used.n_fft * scale), round(used.win_length * scale)
    spectrum = librosa.stft(
        signal, n_fft=n_fft, hop_length=hop or round(used.hop_length * scale), win_length=window, pad_mode=used.pad_mode
    )
    norm = norm or used.mel_norm
    bank = librosa.filters.mel(
        sr=assumed, n_fft=n_fft, n_mels=used.n_mels, fmin=used.fmin, htk=htk, dtype=np.float64,
        fmax=None if used.fmax is None else min(used.fmax, assumed / 2), norm="slaney" if norm == "slaney" else None,
    )  # fmt: skip
    if norm == "sum":
        bank /= bank.sum(axis=1, keepdims=True)
    mel = bank @ np.abs(spectrum) ** power
    return (level or own_level)(mel, used).astype(np.float32)


def decibels(mel: Array, factor: float = 20.0) -> Array:
    return np.asarray(factor * np.log10(np.maximum(mel, 1e-5)))


def mapped(level: Array, audio: AudioConfig, *, clip: bool = True) -> Array:
    low, high = audio.mel_range
    scaled = low + (high - low) * (level - audio.reference_db - audio.min_level_db) / -audio.min_level_db
    return np.clip(scaled, low, high if audio.clip_high else None) if clip else scaled


def own_level(mel: Array, audio: AudioConfig) -> Array:
    return np.log(np.maximum(mel, 1e-5)) if audio.log == "natural" else mapped(decibels(mel), audio)


def ranged(mel_range: tuple[float, float], **settings: float) -> Callable[[Array, AudioConfig], Array]:
    return lambda mel, audio: mapped(decibels(mel), dataclasses.replace(audio, mel_range=mel_range, **settings))


def faults(audio: AudioConfig) -> list[Fault]:
    """All faults of a model, the likeliest strengths of a kind first."""
    found = [
        Fault("transposed", "", {}, lambda mel: mel.T),
        Fault("batch axis", "", {}, lambda mel: mel[None]),
        *(Fault("hop length", hop, {"hop": hop}) for hop in (256, 300, 200, 512, audio.hop_length - 11)
          if hop != audio.hop_length),
        Fault("log base", "log10", {"level": lambda mel, _: np.log10(np.maximum(mel, 1e-5))}),
        Fault("log base", "none", {"level": lambda mel, _: mel}),
        Fault("log base", "power in decibels", {"level": lambda mel, _: librosa.power_to_db(mel), "power": 2}),
        Fault("log base", "power", {"level": lambda mel, _: mel, "power": 2}),
        *(Fault("mel filters", (norm, htk), {"norm": norm, "htk": htk}) for norm, htk in
          (("slaney", False), ("sum", False), ("none", False), ("none", True), ("slaney", True))
          if (norm, htk) != (audio.mel_norm, False)),
        *(Fault("pre-emphasis", value, {"preemphasis": value}) for value in (0.0, 0.97, 0.9)
          if value != audio.preemphasis),
        *(Fault("fmin", value, {"fmin": value}) for value in (0.0, 125.0, 50.0, 80.0, 65.0) if value != audio.fmin),
        *(Fault("fmax", value, {"fmax": value}) for value in (7600.0, 8000.0, 5500.0, 7000.0, None)
          if top(audio, value) != top(audio, audio.fmax)),
        *(Fault("sample rate", (rate, "other filters"), {"sampled": rate}) for rate in (16000, 22050, 24000)
          if rate != audio.sample_rate),
        *(Fault("sample rate", (rate, "same filters"), {"sampled": rate, "assumed": audio.sample_rate})
          for rate in (16000, 22050) if rate != audio.sample_rate),
        *(Fault("sample rate", (rate, "same in time"), {"sampled": rate, "in_time": True})
          for rate in (16000, 22050) if rate != audio.sample_rate and audio.fmax is None),
    ]  # fmt: skip
    if audio.log == "natural":
        return [
            *found,
            Fault("log base", "decibels", {"level": lambda mel, _: decibels(mel)}),
            Fault("normalisation range", "[0, 1]", {"level": ranged((0.0, 1.0))}),
            Fault("normalisation range", "[-4, 4]", {"level": ranged((-4.0, 4.0), reference_db=20.0)}),
            Fault("dB reference", "16-bit integers", {"gain": 32768.0}),
            Fault("dB reference", "quieter", {"gain": 0.1}),
        ]
    return [
        *found,
        Fault("log base", "natural", {"level": lambda mel, _: np.log(np.maximum(mel, 1e-5))}),
        Fault("log base", "10 log10", {"level": lambda mel, used: mapped(decibels(mel, 10.0), used)}),
        Fault("normalisation range", "plain decibels", {"level": lambda mel, _: decibels(mel)}),
        *(Fault("normalisation range", other, {"level": ranged(other)})
          for other in ((0.0, 1.0), (-1.0, 1.0), (-4.0, 4.0), (0.0, 4.0)) if other != audio.mel_range),
        *(Fault("normalisation range", level, {"min_level_db": level}) for level in (-100.0, -80.0, -120.0)
          if level != audio.min_level_db),
        *(Fault("dB reference", value, {"reference_db": value}) for value in (0.0, 20.0, 16.0, 25.0)
          if value != audio.reference_db),
    ]  # fmt: skip


def top(audio: AudioConfig, fmax: float | None) -> float:
    return audio.sample_rate / 2 if fmax is None else min(fmax, audio.sample_rate / 2)


KINDS = sorted({fault.kind for fault in faults(PUBLISHED["fatchord"])})


@pytest.fixture(scope="module")
def sample() -> tuple[Array, int]:
    """Three seconds of speech of the repository."""
    return soundfile.read(SAMPLES / "LJ001-0029.wav", dtype="float32")


def clip(folder: Path, index: int) -> tuple[Array, int]:
    files = sorted((folder / "ljspeech").glob("*.flac"))
    return soundfile.read(files[index % len(files)], dtype="float32")


def kinds(comparison: MelComparison) -> list[str]:
    return [fault.kind for fault in comparison.faults]


def assert_alone(fault: Fault, waveform: Array, rate: int, audio: AudioConfig) -> MelComparison:
    mel = fault.shape(computed(waveform, rate, audio, **fault.settings))
    comparison = compare_mel(mel, waveform, rate, audio)
    assert kinds(comparison) == [fault.kind], (fault.strength, comparison)
    assert comparison.identified
    assert not comparison.fits
    return comparison


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", PUBLISHED)
def test_each_fault_alone_is_named(model: str, kind: str, sample: tuple[Array, int]) -> None:
    audio = PUBLISHED[model]
    fault = next(fault for fault in faults(audio) if fault.kind == kind)
    assert_alone(fault, *sample, audio)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_alone_is_named_on_clips(kind: str, shared_data: Path) -> None:
    index = itertools.count(KINDS.index(kind))
    for model, audio in PUBLISHED.items():
        strengths = [fault for fault in faults(audio) if fault.kind == kind]
        for fault in strengths[list(PUBLISHED).index(model) % 3 :: 3]:
            assert_alone(fault, *clip(shared_data, next(index)), audio)


HARMLESS: dict[str, tuple[dict[str, Any], Callable[[Array], Array]]] = {
    "as it is": ({}, lambda mel: mel),
    "two frames more": ({}, lambda mel: np.concatenate([mel, mel[:, -2:]], axis=1)),
    "two frames less": ({}, lambda mel: mel[:, :-2]),
    "one frame later": ({}, lambda mel: np.concatenate([mel[:, :1], mel], axis=1)),
    "start cut off": ({"skip": 2500}, lambda mel: mel[:, :-10]),
    "samples missing": ({"skip": 7}, lambda mel: mel),
    "other padding": ({"pad_mode": "wrap"}, lambda mel: mel),
    "float16": ({}, lambda mel: mel.astype(np.float16)),
    "not clipped": ({"level": lambda mel, audio: np.log(np.maximum(mel, 1e-5)) if audio.log == "natural"
                     else mapped(decibels(mel), audio, clip=False)}, lambda mel: mel),
    "rounded": ({}, lambda mel: np.round(mel, 2)),
}  # fmt: skip


@pytest.mark.parametrize("label", HARMLESS)
@pytest.mark.parametrize("model", ["univoc", "coqui", "natural"])
def test_harmless_differences_are_not_named(model: str, label: str, sample: tuple[Array, int]) -> None:
    audio = PUBLISHED[model]
    settings, change = HARMLESS[label]
    if "pad_mode" in settings:
        settings = {"pad_mode": "constant" if audio.pad_mode == "reflect" else "reflect"}
    comparison = compare_mel(change(computed(*sample, audio, **settings)), *sample, audio)
    assert comparison.fits, comparison


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if preset.refused is None])
def test_the_model_s_own_features_fit_exactly(preset: str, sample: tuple[Array, int]) -> None:
    waveform, rate = sample
    audio = AudioConfig(**PRESETS[preset].audio)
    resampled = resample(waveform, rate, audio.sample_rate)
    scaled = resampled if audio.peak is None else resampled / np.abs(resampled).max() * audio.peak
    mel = mel_spectrogram(scaled, audio)
    assert mel_warnings(mel, audio) == []
    comparison = compare_mel(mel, waveform, rate, audio)
    assert comparison.notes == ()
    assert comparison.fits
    assert comparison.deviation_db < 1e-3
    assert (comparison.scale, comparison.offset, comparison.convention) == (None, None, None)


@pytest.mark.parametrize(
    ("model", "strength"),
    [("coqui", "natural"), ("coqui", (0.0, 1.0)), ("fatchord", 20.0), ("univoc", "log10"), ("natural", "[-4, 4]")],
)
def test_the_conversion_gives_the_model_s_mel(model: str, strength: object, sample: tuple[Array, int]) -> None:
    audio = PUBLISHED[model]
    fault = next(fault for fault in faults(audio) if fault.strength == strength)
    comparison = assert_alone(fault, *sample, audio)
    assert comparison.scale is not None
    assert comparison.offset is not None
    converted = comparison.scale * computed(*sample, audio, **fault.settings) + comparison.offset
    if audio.log == "decibel":
        converted = np.clip(converted, audio.mel_range[0], audio.mel_range[1] if audio.clip_high else None)
    expected = computed(*sample, audio)
    # What the other convention has clipped is lost.
    kept = expected > np.quantile(expected, 0.5)
    assert np.abs(converted - expected)[kept].max() < 2e-3 * np.ptp(expected)
    assert f"{comparison.scale:.6g} * mel" in comparison.faults[0].remedy or comparison.scale == pytest.approx(1)


def test_a_fault_that_cannot_be_converted_has_another_remedy(sample: tuple[Array, int]) -> None:
    comparison = compare_mel(computed(*sample, PUBLISHED["turian"], fmin=0.0), *sample, PUBLISHED["turian"])
    (fault,) = comparison.faults
    assert not fault.convertible
    assert (fault.found, fault.expected) == ("0 Hz", "95 Hz")
    assert "compute the mel from the recording again" in fault.remedy
    assert "--set fmin=0" in fault.remedy


def test_the_name_of_a_published_convention_is_given(sample: tuple[Array, int]) -> None:
    audio = PUBLISHED["coqui"]
    named = {
        strength: compare_mel(computed(*sample, audio, level=level), *sample, audio).convention
        for strength, level in (
            ("natural", lambda mel, _: np.log(np.maximum(mel, 1e-5))),
            ("log10", lambda mel, _: np.log10(np.maximum(mel, 1e-10))),
            ("fatchord", lambda mel, _: mapped(decibels(mel), PUBLISHED["fatchord"])),
        )
    }
    assert named["natural"] in ("tacotron2", "bigvgan")
    assert (named["log10"], named["fatchord"]) == ("espnet", "fatchord")


def test_all_differences_of_another_project_s_mel_are_named(sample: tuple[Array, int]) -> None:
    mel = computed(*sample, PUBLISHED["natural"])
    comparison = compare_mel(mel.T, *sample, PUBLISHED["turian"])
    assert kinds(comparison) == ["transposed", "sample rate", "hop length", "window", "fmin", "fmax", "log base"]
    assert comparison.faults[2].found == "256 samples"


def test_the_level_does_not_matter_where_the_model_scales_recordings(sample: tuple[Array, int]) -> None:
    audio = dataclasses.replace(PUBLISHED["univoc"], peak=0.3)
    comparison = compare_mel(computed(*sample, audio, peak=None), *sample, audio)
    assert comparison.fits
    assert any("not scaled to a peak of 0.3" in note for note in comparison.notes)
    scaled = compare_mel(computed(*sample, PUBLISHED["coqui"], peak=0.95), *sample, PUBLISHED["coqui"])
    assert kinds(scaled) == ["dB reference"]
    assert "scaled to a peak of 0.95" in scaled.faults[0].found


def test_frames_that_are_centred_elsewhere_are_noted(sample: tuple[Array, int]) -> None:
    audio = PUBLISHED["natural"]
    comparison = compare_mel(computed(*sample, audio, skip=128), *sample, audio)  # as HiFi-GAN pads
    assert comparison.fits
    assert any("128 samples later" in note for note in comparison.notes)


def test_a_square_mel_is_transposed_if_that_fits_better(sample: tuple[Array, int]) -> None:
    waveform, rate = sample
    audio = PUBLISHED["turian"]
    part = waveform[8000 : 8000 + 79 * audio.hop_length]
    mel = computed(part, rate, audio)
    assert mel.shape == (80, 80)
    assert compare_mel(mel, part, rate, audio).fits
    assert kinds(compare_mel(mel.T, part, rate, audio)) == ["transposed"]


def test_an_unknown_cause_is_reported_as_unknown(sample: tuple[Array, int]) -> None:
    waveform, rate = sample
    audio = PUBLISHED["coqui"]
    mel = computed(waveform, rate, audio)
    rough = mel + np.random.default_rng(0).normal(0, 0.32, mel.shape).astype(np.float32)  # 4 dB
    predicted = compare_mel(rough, waveform, rate, audio)
    assert not predicted.fits
    assert not predicted.identified
    assert kinds(predicted) == []
    assert 2 < predicted.residual_db < 6
    other = compare_mel(mel[:, ::-1], waveform, rate, audio)
    assert not other.fits
    assert not other.identified


def test_a_wrong_level_is_named_even_in_a_noisy_mel(sample: tuple[Array, int]) -> None:
    audio = PUBLISHED["coqui"]
    mel = computed(*sample, audio, level=lambda mel, _: np.log(np.maximum(mel, 1e-5)))
    rough = mel + np.random.default_rng(0).normal(0, 0.2, mel.shape).astype(np.float32)
    assert "log base" in kinds(compare_mel(rough, *sample, audio))


@pytest.mark.parametrize(
    ("mel", "silent", "message"),
    [
        (np.zeros((80, 200), np.int16), False, "found int16"),
        (np.full((80, 200), np.nan, np.float32), False, "finite"),
        (np.zeros((2, 80, 200), np.float32), False, "one by one"),
        (np.zeros((80, 200), np.float32), False, "too few loud cells"),
        (np.ones((80, 200), np.float32), True, "found silence"),
    ],
)
def test_mels_that_cannot_be_compared_are_refused(
    mel: Array, silent: bool, message: str, sample: tuple[Array, int]
) -> None:
    waveform, rate = sample
    with pytest.raises(VocoderError, match=message):
        compare_mel(mel, 0 * waveform if silent else waveform, rate, PUBLISHED["coqui"])
