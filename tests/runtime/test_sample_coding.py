"""Conversion between drawn samples and waveforms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.export.config import AudioConfig, ColumnGroup, Family, LabelScale, ModelConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import pre_emphasis
from wavernn_trt.runtime.sample_coding import SampleCoding, mu_law_compress, mu_law_expand

AUDIO = AudioConfig(sample_rate=16000, hop_length=200, win_length=800, n_fft=2048)
PREEMPHASISED = dataclasses.replace(AUDIO, waveform_preemphasis=0.85)


def model(family: Family = "univoc", classes: int = 1024, mu: bool = True) -> ModelConfig:
    scale: LabelScale = "librosa" if family == "univoc" else "symmetric"
    group = ColumnGroup("mel", 4, "held")
    return ModelConfig(family, "categorical", classes, 4, (4,), (4,), (group,), mu_law=mu, label_scale=scale)


MIXTURE = dataclasses.replace(model("fatchord", mu=False), output="logistic_mixture", outputs=30)
CODINGS = [
    SampleCoding(model("univoc"), AUDIO),
    SampleCoding(model("univoc", 512), AUDIO),
    SampleCoding(dataclasses.replace(model("univoc", 256), label_scale="symmetric"), PREEMPHASISED),
    SampleCoding(model("fatchord", 512), AUDIO),
    SampleCoding(model("turian", 1024, mu=False), AUDIO),
    SampleCoding(model("coqui", 2, mu=False), AUDIO),
]


def test_univoc_decodes_as_librosa_does() -> None:
    librosa = pytest.importorskip("librosa")
    labels = np.arange(1024)
    expected = librosa.mu_expand(labels - 512, mu=1023, quantize=True)
    np.testing.assert_allclose(CODINGS[0].amplitudes(labels), expected, atol=1e-12)
    assert CODINGS[0].amplitudes(np.array([512])) == 0


def test_fatchord_decodes_symmetrically() -> None:
    labels = np.arange(512)
    companded = 2 * labels / 511 - 1
    expected = np.sign(companded) / 511 * (512 ** np.abs(companded) - 1)
    np.testing.assert_allclose(CODINGS[3].amplitudes(labels), expected, atol=1e-12)
    np.testing.assert_allclose(CODINGS[4].amplitudes(np.array([0, 1023])), [-1, 1])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.sampled_from([1, 255, 511, 1023]))
def test_mu_law_is_undone_by_its_inverse(amplitudes: list[float], mu: int) -> None:
    np.testing.assert_allclose(mu_law_expand(mu_law_compress(np.array(amplitudes), mu), mu), amplitudes, atol=1e-12)


@pytest.mark.parametrize("coding", CODINGS)
def test_encoding_an_amplitude_gives_its_label(coding: SampleCoding) -> None:
    labels = np.arange(len(coding._amplitudes))
    if coding._preemphasis:
        emphasised = coding.amplitudes(labels)
        labels_again = [int(coding.samples(np.array([value]))[0]) for value in emphasised]
        assert labels_again == labels.tolist()
    else:
        assert coding.samples(coding.waveform(labels)).tolist() == labels.tolist()


@pytest.mark.parametrize("coding", CODINGS)
@given(waveform=st.lists(st.floats(-1.5, 1.5), max_size=40))
def test_any_waveform_becomes_labels(coding: SampleCoding, waveform: list[float]) -> None:
    labels = coding.samples(np.array(waveform))
    assert labels.dtype == np.int32
    assert coding.check(labels).tolist() == labels.tolist()


def test_pre_emphasised_voices_are_encoded_as_they_were_trained() -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 400)
    emphasised = np.clip(pre_emphasis(waveform, 0.85), -1, 1)
    companded = np.sign(emphasised) * np.log(1 + 255 * np.abs(emphasised)) / np.log(256)
    assert CODINGS[2].samples(waveform).tolist() == np.round((companded + 1) / 2 * 255).tolist()


@given(st.lists(st.integers(0, 255), min_size=1, max_size=300), st.lists(st.integers(1, 50), min_size=1))
def test_de_emphasis_has_equal_bits_for_all_cuts(labels: list[int], cuts: list[int]) -> None:
    coding = CODINGS[2]
    samples = np.array(labels, np.int32)
    whole = coding.de_emphasis()(coding.amplitudes(samples))
    de_emphasis, parts, at = coding.de_emphasis(), [], 0
    while at < len(samples):
        cut = cuts[len(parts) % len(cuts)]
        parts.append(de_emphasis(coding.amplitudes(samples[at : at + cut])))
        at += cut
    assert np.array_equal(np.concatenate(parts), whole)
    np.testing.assert_allclose(pre_emphasis(whole, 0.85), coding.amplitudes(samples), atol=1e-9)


def test_de_emphasis_of_a_long_utterance_is_one_recursion() -> None:
    emphasised = np.random.default_rng(0).uniform(-1, 1, 2 * 65536 + 3)
    whole = CODINGS[2].de_emphasis()(emphasised)
    last, expected = 0.0, []
    for value in emphasised.tolist():
        last = value + 0.85 * last
        expected.append(last)
    assert whole.tolist() == expected


def test_feedback_has_the_sampler_s_bits() -> None:
    torch = pytest.importorskip("torch")
    from wavernn_trt.export.families.samplers import CategoricalSampler

    for classes in (256, 512, 1024):
        sampler = CategoricalSampler(classes, label_feedback=False)
        fed = SampleCoding(model("fatchord", classes), AUDIO).feedback(np.arange(classes, dtype=np.int32))
        assert torch.equal(sampler.values, torch.from_numpy(fed))


def test_samples_of_mixtures_are_amplitudes() -> None:
    values = np.array([-1, -0.25, 0, 1], np.float32)
    coding = SampleCoding(MIXTURE, AUDIO)
    assert coding.waveform(values).tolist() == coding.samples(values).tolist() == coding.feedback(values).tolist()


def test_invalid_samples_are_refused() -> None:
    with pytest.raises(VocoderError, match="found labels from 0 to 1024, expected integers from 0 to 1023"):
        CODINGS[0].check([0, 1024])
    with pytest.raises(VocoderError, match="expected integers from 0 to 1023"):
        CODINGS[0].check([0.5])
    with pytest.raises(VocoderError, match=r"found int64 \(1, 1\)"):
        CODINGS[0].check(np.array([[1]]))
    with pytest.raises(VocoderError, match="NaN"):
        SampleCoding(MIXTURE, AUDIO).check([np.nan])
    with pytest.raises(VocoderError, match=r"found values from -0.5 to 37.0, expected numbers from -1 to 1"):
        SampleCoding(MIXTURE, AUDIO).check([-0.5, 37.0])
