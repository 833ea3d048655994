"""The backend ``cuda`` on a GPU, compared with ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wavernn_trt.export.operators import Precision
from wavernn_trt.export.probe_measures import displacements
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms
from wavernn_trt.runtime.vocoder import Vocoder, load, shipped_voice

for module in ("onnxruntime", "onnx_graphsurgeon", "platformdirs"):
    pytest.importorskip(module, reason="the backend reads models with it, or is compared with it")

Record = Callable[[str, object], None]
SHIPPED, LARGE = "shipped voice", "univoc-896"
FRAMES = 40
"""Length of a mel: half a second."""
TOGETHER, REPEATS, SEED = 32, 5, 1
DISPLACED = 1e-5
"""Mean displacement of a label allowed in float32: the distance of its random number from its interval."""

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("runtime_cubins")]


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function (model) -> its directory; the large one has random weights."""
    made: dict[str, Path] = {SHIPPED: shipped_voice()}

    def find(model: str) -> Path:
        if model not in made:
            pytest.importorskip("torch", reason="a random model is exported by PyTorch")
            from wavernn_trt.scripts.bench.models import export_random

            made[model] = export_random(model, tmp_path_factory.mktemp("models"))
        return made[model]

    return find


@pytest.fixture
def vocoder(directory: Callable[[str], Path], model: str, precision: Precision) -> Iterator[Vocoder]:
    """A vocoder with the backend ``cuda``; the shipped voice is probed as well."""
    with load(directory(model), "cuda", batch=TOGETHER, precision=precision, probe=model == SHIPPED) as opened:
        yield opened


def mels(number: int) -> list[NDArray[np.float32]]:
    """Pieces of the shipped sample mel, valid for the other model as well."""
    mel = np.load(shipped_voice().parent / "sample_mel.npy")
    starts = np.linspace(0, mel.shape[1] - FRAMES, number).astype(int)
    return [np.ascontiguousarray(mel[:, start : start + FRAMES]) for start in starts]


@pytest.mark.parametrize(("model", "precision"), [(SHIPPED, "fp32"), (SHIPPED, "fp16"), (LARGE, "fp32")])
def test_labels_are_drawn_from_the_distribution_of_onnx_runtime(
    vocoder: Vocoder, directory: Callable[[str], Path], model: str, precision: Precision, record_property: Record
) -> None:
    mel = mels(3)[1]
    found = vocoder.labels(mel, seed=SEED)
    with load(directory(model), "onnxruntime") as reference:
        own = reference.labels(mel, seed=SEED)
        logits = reference.teacher_forced(mel, found)
    config = vocoder.config.model
    away = float(displacements(config, logits, SeededUniforms(config, SEED).draw(len(found)), found).mean())
    record_property("displaced", away)
    record_property("equal_until", int((found == own).cumprod().sum()))
    assert away <= DISPLACED or precision != "fp32"  # in low precision the probe decides


@pytest.mark.parametrize(("model", "precision"), [(SHIPPED, "fp16"), (LARGE, "fp16")])
def test_utterances_decoded_together_have_the_bits_of_each_alone(
    vocoder: Vocoder, model: str, precision: Precision
) -> None:
    several = mels(TOGETHER)
    found = vocoder.vocode_batch(several, seeds=range(len(several)))
    for number in (0, len(several) - 1):
        np.testing.assert_array_equal(vocoder.vocode(several[number], seed=number), found[number])


@pytest.mark.parametrize(("model", "precision"), [(SHIPPED, "fp16"), (LARGE, "fp16")])
def test_a_stream_has_the_bits_of_the_whole_waveform(
    vocoder: Vocoder, model: str, precision: Precision, record_property: Record
) -> None:
    mel = mels(2)[1]
    whole, pieces = vocoder.vocode(mel, seed=SEED), []
    started, first = time.perf_counter(), 0.0
    for piece in vocoder.stream(mel, seed=SEED):
        first = first or time.perf_counter() - started
        pieces.append(np.array(piece))
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    record_property("first_seconds", first)
    record_property("text", f"the first samples after {1e3 * first:.1f} ms")


@pytest.mark.parametrize(("model", "precision"), [(SHIPPED, "fp16"), (LARGE, "fp16")])
def test_speed_from_mels_to_waveforms(
    vocoder: Vocoder, model: str, precision: Precision, record_property: Record
) -> None:
    values = {}
    for name, chosen in (("one", mels(1)), ("many", mels(TOGETHER))):
        vocoder.vocode_batch(chosen)
        speeds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            samples = sum(len(waveform) for waveform in vocoder.vocode_batch(chosen))
            speeds.append(samples / (time.perf_counter() - started))
        values[name] = float(np.median(speeds))
        record_property(f"{name}_samples_per_second", values[name])
    record_property("text", f"{values['one']:,.0f} samples/s of one, {values['many']:,.0f} of {TOGETHER} at once")
    record_property("noted", True)
    assert values["many"] > 0
