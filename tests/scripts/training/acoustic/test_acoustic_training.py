"""Training and export of the acoustic model, on a small corpus of tones and noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="models are trained with PyTorch")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs it (the extra 'train')")

from wavernn_trt.export.acoustic.network import AcousticNetwork, AcousticSizes
from wavernn_trt.runtime.speech.acoustic_model import ConvolutionalAcousticModel
from wavernn_trt.scripts.training.acoustic import export, train
from wavernn_trt.scripts.training.acoustic.labelled_corpus import (
    Scales,
    Utterance,
    batches,
    means_by_phoneme,
    measured_scales,
    read_corpus,
    symbol_table,
    utterance,
)
from wavernn_trt.scripts.training.acoustic.losses import frame_features, losses
from wavernn_trt.scripts.training.recipe import RecipeError

RATE, UNIT = 16000, 400
SYMBOLS = {"a": 7, "i": 9, "s": 12, " ": 16}
"""Numbers of the speaker's phonemes; a and i are tones, s is noise."""
SMALL = partial(AcousticSizes, hidden=16, encoder_layers=1, contour_hidden=8, contour_layers=1, decoder_hidden=16,
                decoder_layers=2)  # fmt: skip


def write_clip(path: Path, phonemes: str, seed: int) -> None:
    """Writes a clip with its labels."""
    random = np.random.default_rng(seed)
    parts: list[NDArray[np.float64]] = []
    ids, durations, f0 = [], [], []
    for symbol in f"_{phonemes}_":
        units = int(random.integers(2, 6))
        pitch = {"a": 150.0, "i": 220.0}.get(symbol, 0.0) * random.uniform(0.95, 1.05)
        time = np.arange(units * UNIT) / RATE
        tone = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 9))
        noise = random.normal(0, 0.3, len(time)) if symbol == "s" else random.normal(0, 1e-4, len(time))
        parts.append(0.2 * tone + noise if pitch else noise)
        ids.append(SYMBOLS.get(symbol, 0))
        durations.append(units)
        f0.extend([pitch] * (2 * units))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path.with_suffix(".flac"), np.concatenate(parts).clip(-1, 1), RATE)
    labels = {"ids": np.int16(ids), "durations": np.int16(durations), "f0": np.float32(f0)}
    np.savez(path.with_suffix(".npz"), phonemes=np.array(phonemes), **labels)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of twelve clips and two kept-out ones."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = ["sasi", "isa sa", "as is", "sia", "aii s", "ssai", "ia sia", "sa", "i a s", "asas", "is is", "aisais"]
    for number, text in enumerate(texts):
        write_clip(folder / "training" / f"s{number:05d}", text, number)
    for number, text in enumerate(["sai sa", "isia"]):
        write_clip(folder / "kept-out" / f"t{number:05d}", text, 100 + number)
    description = {name: name for name in ("origin", "licence", "speaker", "sentences")}
    (folder / "corpus.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def prepared(corpus: Path) -> tuple[list[Utterance], Scales]:
    table = symbol_table(sorted((corpus / "training").glob("*.npz")))
    clips = read_corpus(corpus / "training", table)
    scales = measured_scales(clips)
    symbols = {symbol: number for number, symbol in enumerate(sorted(set(table.values())), start=1)}
    return [utterance(clip, symbols, scales) for clip in clips], scales


@pytest.fixture
def run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A function (further arguments) -> the exit code of a training of a small model into tmp_path / "out"."""
    monkeypatch.setattr(train, "AcousticSizes", SMALL)
    return lambda *arguments: train.main(
        [str(corpus), str(tmp_path / "out"), "--frames", "150", "--threads", "1", *map(str, arguments)]
    )


def test_symbols_are_read_from_the_clips(corpus: Path) -> None:
    table = symbol_table(sorted((corpus / "training").glob("*.npz")))
    assert table == {0: "_", **{number: symbol for symbol, number in SYMBOLS.items()}}


def test_means_by_phoneme_are_those_of_its_frames() -> None:
    values, durations = np.arange(9, dtype=np.float32), np.array([2, 0, 3, 4])
    assert means_by_phoneme(values, durations).tolist() == [0.5, 0, 3, 6.5]


def test_labels_are_of_phonemes_and_frames(prepared: tuple[list[Utterance], Scales]) -> None:
    one = prepared[0][0]  # sasi
    assert one.durations.sum() == len(one.f0) == len(one.mel)
    assert one.voicing.tolist() == [0, 0, 1, 0, 1, 0]
    assert one.pitch[4] > one.pitch[2]
    assert one.pitch[[0, 1, 3, 5]].tolist() == [0, 0, 0, 0]
    assert one.energy[1] > one.energy[0]
    assert 0 <= one.mel.min() < one.mel.max() <= 1


def test_batches_have_each_utterance_once_in_a_pass(prepared: tuple[list[Utterance], Scales]) -> None:
    utterances, _ = prepared

    def passed(seed: int) -> list[list[int]]:
        source, found = batches(utterances, 200, torch.Generator().manual_seed(seed)), []
        while sum(map(len, found)) < len(utterances):
            batch = next(source)
            assert len(batch) == 1 or len(batch) * max(len(one.f0) for one in batch) <= 200
            found.append([next(n for n, other in enumerate(utterances) if other is one) for one in batch])
        return found

    assert sorted(chain.from_iterable(passed(0))) == list(range(len(utterances)))
    assert passed(1) == passed(1) != passed(2)


def test_padding_of_a_batch_changes_no_loss(prepared: tuple[list[Utterance], Scales]) -> None:
    utterances, scales = prepared
    torch.manual_seed(0)
    network = AcousticNetwork(SMALL(symbols=6)).eval()
    short, long = utterances[7], utterances[11]
    together = losses(network, [short, long], scales)
    alone = [losses(network, [one], scales) for one in (short, long)]
    for name, count in (("mel", "f0"), ("frames", "f0"), ("duration", "symbols"), ("energy", "symbols")):
        sizes = [len(getattr(one, count)) for one in (short, long)]
        expected = sum(size * one[name].item() for size, one in zip(sizes, alone, strict=True)) / sum(sizes)
        assert together[name].item() == pytest.approx(expected, rel=1e-5)


def test_a_training_lowers_the_losses_and_is_resumed(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--minutes", "0.005") == 0
    first = json.loads(capsys.readouterr().out)
    assert run("--minutes", "0.12", "--resume") == 0
    second = json.loads(capsys.readouterr().out)
    assert second["updates"] > first["updates"] > 0
    assert second["mel"] < 0.7 * first["mel"]
    assert second["duration"] < first["duration"]
    content = torch.load(tmp_path / "out" / "acoustic.pt", weights_only=True)
    assert content["step"] == second["updates"]
    assert set(content["symbols"]) == {"_", *SYMBOLS}


def test_an_exported_model_computes_what_the_network_computes(
    run: Callable[..., int], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--minutes", "0.02") == 0
    arguments = [str(tmp_path / "out" / "acoustic.pt"), "-o", str(tmp_path / "model"), "--corpus", str(corpus)]
    assert export.main(arguments) == 0
    assert export.main(arguments) == 2  # it exists
    assert "model" in capsys.readouterr().err
    model = ConvolutionalAcousticModel.load(tmp_path / "model")
    content: Any = torch.load(tmp_path / "out" / "acoustic.pt", weights_only=True)
    for name, value in content["model"].items():  # as they are stored
        content["model"][name] = value.half().float() if value.numel() >= 256 else value
    network = AcousticNetwork.of(content)
    prosody = model.prosody("sa is")
    margin = network.sizes.encoder_margin
    numbers = torch.tensor([[content["symbols"][symbol] for symbol in prosody.symbols]])
    with torch.inference_mode():
        hidden, found = network.encoder(torch.nn.functional.pad(numbers, (margin, margin)))
        # The first silence has four frames at least.
        np.testing.assert_allclose(prosody.durations[1:], found.log_duration[0].expm1().clip(0).numpy()[1:], atol=2e-3)
        ends = torch.from_numpy(prosody.ends)
        voicing = found.voicing[0].sigmoid()
        frames = frame_features(
            hidden[0].T,
            found.pitch[0] * (voicing > 0.1),
            voicing,
            found.energy[0],
            torch.diff(ends, prepend=ends[:1] * 0),
        )
        sizes, scales = network.sizes, content["scales"]
        outer = sizes.contour_margin + sizes.decoder_margin
        rows = torch.nn.functional.pad(frames.T[None], (outer, outer))
        pitch, voiced = network.contour(rows)
        rows = rows[:, :, sizes.contour_margin : rows.shape[2] - sizes.contour_margin]
        f0 = torch.exp(pitch * scales["pitch_deviation"] + scales["pitch_mean"])
        mel = network.decoder(rows, f0, (voiced > 0) * rows[:, sizes.hidden])[0].clamp(0, 1) - 1
    np.testing.assert_allclose(np.concatenate(list(model.mel(prosody)), 1), mel, atol=2e-3)


def test_wrong_corpora_are_reported(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "found no folder training" in capsys.readouterr().err
    assert train.main([str(corpus), str(tmp_path / "out"), "--resume"]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="found no labelled clips"):
        read_corpus(tmp_path)
    write_clip(tmp_path / "bad" / "s00001", "sa", 0)
    with pytest.raises(
        RecipeError, match=r"s00001\.npz: no clip of the corpus shows the symbols of the phonemes \[7, 12\]"
    ):
        read_corpus(tmp_path / "bad", {0: "_"})
    soundfile.write(tmp_path / "bad" / "s00001.flac", np.zeros(800), RATE)
    with pytest.raises(RecipeError, match=r"frames of durations, \d+ of f0 and 5 of speech do not match"):
        read_corpus(tmp_path / "bad")


def test_padding_of_a_batch_changes_no_hidden_row_or_pitch(prepared: tuple[list[Utterance], Scales]) -> None:
    utterances, scales = prepared
    torch.manual_seed(0)
    network = AcousticNetwork(SMALL(symbols=6)).eval()
    pair = [utterances[7], utterances[11]]
    margin = (network.sizes.encoder_margin,) * 2
    numbers = torch.nn.utils.rnn.pad_sequence([one.symbols for one in pair], batch_first=True)
    with torch.inference_mode():
        hidden, _ = network.encoder(torch.nn.functional.pad(numbers, margin))
        alone, _ = network.encoder(torch.nn.functional.pad(pair[0].symbols[None], margin))
        np.testing.assert_allclose(hidden[0, :, : alone.shape[2]], alone[0], atol=1e-5)
        together = losses(network, pair, scales)
        parts = [losses(network, [one], scales) for one in pair]
    counts = {
        "pitch": [int((one.voicing > 0).sum()) for one in pair],
        "voicing": [len(one.symbols) for one in pair],
        "contour": [int((one.f0 > 0).sum()) for one in pair],
    }
    for name, sizes in counts.items():
        expected = sum(size * part[name].item() for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
        assert together[name].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not a checkpoint that can be read"),
        ({"weights": {}}, "expected a dict with 'model' and 'step'"),
        ({"model": {}, "step": 1, "symbols": {}}, "found no optimizer, seconds, weights, expected a training.pt"),
        (
            {"model": {}, "step": 1, "symbols": {"x": 1}, "weights": {}, "optimizer": {}, "seconds": 0.0},
            "the corpus has other symbols",
        ),
    ],
)
def test_what_cannot_be_resumed_is_reported(
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: dict[str, Any] | None,
    words: str,
) -> None:
    path = tmp_path / "out" / "training.pt"
    path.parent.mkdir()
    if content is None:
        path.write_bytes(b"damaged")
    else:
        torch.save(content, path)
    before = path.read_bytes()
    assert run("--minutes", "0.005", "--resume") == 2
    error = capsys.readouterr().err
    assert f"train: {path}: " in error
    assert words in error
    assert path.read_bytes() == before


def test_a_corpus_without_voiced_frames_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("training", "kept-out"):
        write_clip(tmp_path / folder / "s00000", "ss", 0)
    assert train.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'training'}: found no voiced frames" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("description", ["{", "[]", '{"origin": "", "licence": "", "speaker": ""}'])
def test_an_export_names_a_damaged_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str], description: str) -> None:
    torch.save({"model": {}, "step": 1}, tmp_path / "acoustic.pt")
    (tmp_path / "corpus.json").write_text(description)
    arguments = [str(tmp_path / "acoustic.pt"), "-o", str(tmp_path / "model"), "--corpus", str(tmp_path)]
    assert export.main(arguments) == 2
    assert f"export: {tmp_path / 'corpus.json'}: expected the corpus.json" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_an_export_refuses_other_checkpoints(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {}, "step": 1}, tmp_path / "vocoder.pt")
    arguments = [str(tmp_path / "vocoder.pt"), "-o", str(tmp_path / "model"), "--corpus", str(corpus)]
    assert export.main(arguments) == 2
    assert f"{tmp_path / 'vocoder.pt'}: found no 'sizes', expected an acoustic.pt" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
