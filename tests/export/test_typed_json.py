"""``config.json`` is read with checked types: an error names the field and its value; valid values come back equal."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from wavernn_trt.export.config import AudioConfig, ConfigError, ModelConfig
from wavernn_trt.export.model_directory import CONFIG, open_model_directory, write_config
from wavernn_trt.export.quantization import Product, Quantization
from wavernn_trt.export.typed_json import from_json
from wavernn_trt.runtime.vocoder import shipped_voice


def model(**changes: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(open_model_directory(shipped_voice()).model), **changes}


def audio(**changes: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(open_model_directory(shipped_voice()).audio), **changes}


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (AudioConfig, None, "it: found None, expected an object"),
        (AudioConfig, audio(sample_rate="16000"), "it.sample_rate: found '16000', expected an integer"),
        (AudioConfig, audio(sample_rate=True), "it.sample_rate: found True, expected an integer"),
        (AudioConfig, audio(hop_length=12.5), "it.hop_length: found 12.5, expected an integer"),
        (AudioConfig, audio(fmax=[]), "it.fmax: found [], expected a number or null"),
        (AudioConfig, audio(log="natural logarithm"), "found 'natural logarithm', expected one of decibel, natural"),
        (AudioConfig, audio(mel_range=[0]), "it.mel_range: found [0], expected a list of length 2"),
        (AudioConfig, audio(hop_length=-1), "audio.hop_length: found -1, expected a positive integer"),
        (AudioConfig, audio(pace=1), "it: unknown field 'pace'; the fields are sample_rate, hop_length"),
        (AudioConfig, {"sample_rate": 16000}, "it: the field 'hop_length' is missing"),
        (ModelConfig, model(groups=[{"name": "mel"}]), "it.groups[0]: the field 'columns' is missing"),
        (
            ModelConfig,
            model(groups=[{"name": "mel", "columns": 3, "expansion": "held", "rows": 1}]),
            "it.groups[0]: unknown field 'rows'; the fields are name, columns, expansion",
        ),
        (ModelConfig, model(input_sizes=64), "it.input_sizes: found 64, expected a list"),
        (ModelConfig, model(fc_sizes=[192, None]), "it.fc_sizes[1]: found None, expected an integer"),
        (ModelConfig, model(family="x" * 200), "it.family: found 'xxx"),
        (Quantization, {"products": {1: {}}}, "it.products: a key is not a text"),
        (Quantization, {"products": {"fc_0": {"grid": 8}}}, "it.products['fc_0'].grid: found 8, expected one of fp16"),
    ],
)
def test_an_error_names_the_field_the_value_and_what_was_expected(
    kind: type[Any], values: object, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(kind, values, "it")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_configuration_read_and_written_again_has_the_same_bytes(tmp_path: Any) -> None:
    voice = open_model_directory(shipped_voice())
    quantization = Quantization({"fc_0": Product("int8", 3.5), "output": Product("fp16")}, "ab" * 32)
    write_config(tmp_path, voice.model, voice.audio, voice.decoder, voice.source, quantization)
    first = (tmp_path / CONFIG).read_bytes()
    values = json.loads(first)
    again = [
        from_json(kind, values[name], name)
        for kind, name in ((ModelConfig, "model"), (AudioConfig, "audio"), (Quantization, "quantization"))
    ]
    assert again == [voice.model, voice.audio, quantization]
    write_config(tmp_path, again[0], again[1], voice.decoder, voice.source, again[2])
    assert (tmp_path / CONFIG).read_bytes() == first


def test_whole_numbers_are_read_as_floats_and_missing_fields_have_defaults() -> None:
    values = audio(fmin=50)
    del values["mel_norm"]
    read = from_json(AudioConfig, values, "audio")
    assert read == dataclasses.replace(open_model_directory(shipped_voice()).audio, fmin=50.0)
    assert isinstance(read.fmin, float)


def test_an_error_of_a_dataclass_is_not_among_its_own_causes() -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(AudioConfig, audio(hop_length=-1), "it")
    seen: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        assert error not in seen
        seen.append(error)
        error = error.__cause__ or error.__context__


def test_a_lone_surrogate_is_refused_as_any_other_text() -> None:
    with pytest.raises(ConfigError, match="it: found the text"):
        from_json(AudioConfig, audio(log="\ud800"), "it")
