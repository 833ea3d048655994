"""Reading any file gives a checkpoint or a `CheckpointError` with the way out; nothing in a file is run."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")

from wavernn_trt.export.checkpoints.checkpoint import CheckpointError, read_checkpoint

FORMATS = {"zip": True, "from before torch 1.6": False}


def _saved(state: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def _read(path: Path, content: bytes) -> str | None:
    """Reads a file of this content; returns the error's message, or None where it is a checkpoint."""
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return None


# What the files are


class Payload:
    """Unpickling this would run a program."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (self.command,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00\x01\x02\x03" * 10, "found neither a zip archive nor a pickle"),
        (b"PK\x03\x04" + bytes(200), "is damaged or incomplete"),
        (b"\x80", "is damaged or incomplete"),
        (b"\x80\x02" + bytes(range(256)), "is damaged or incomplete"),
        (pickle.dumps({"I.weight": 1}), "found a pickle that torch.save did not write"),
    ],
)
def test_files_without_weights_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    found = _read(tmp_path / "model.pt", content)
    assert found is not None
    assert message in found


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing\.pt is not there; expected a checkpoint"):
        read_checkpoint(tmp_path / "missing.pt")


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=list(FORMATS))
def test_pickled_code_is_refused_and_not_run(zipped: bool, reference: ModuleType, tmp_path: Path) -> None:
    witness = tmp_path / "it-ran"
    state = {**reference.random_state(), "extra": Payload(f"open({str(witness)!r}, 'w')")}
    message = _read(tmp_path / "model.pt", _saved(state, zipped))
    assert message is not None
    assert "found a pickle that would run builtins.eval when it is loaded" in message
    assert "Nothing of it was run. Expected weights only; do not load this file anywhere" in message
    assert "weights_only=False" not in message  # that would run it
    assert not witness.exists()


def test_a_scripted_module_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("model/data.pkl", "model/code/__torch__.py", "model/constants.pkl", "model/version"):
            archive.writestr(name, b"3\n")
    with pytest.raises(CheckpointError, match="found a TorchScript archive, which is a program"):
        read_checkpoint(path)


# What the dictionaries hold


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"step": torch.tensor([1])}, "found the tensors of no model"),
        (lambda state: {"conv.weight": torch.ones(2)}, "found the tensors conv.weight, expected embedding.weight"),
        (lambda state: {**state, "upsample.extra": torch.ones(2)}, "found upsample.extra, expected only"),
        (lambda state: _without(state, "rnn2.bias_hh_l0"), "rnn2.bias_hh_l0 missing, found"),
        (lambda state: _without(state, "fc3.weight"), "fc3.weight is missing"),
        (lambda state: {**state, "fc3.bias": torch.ones(15)}, r"fc3.bias: found shape [15], expected [16]"),
        (lambda state: {**state, "fc3.weight": torch.ones(16)}, "fc3.weight: found shape [16], expected 2 dimensions"),
        (lambda state: {**state, "fc3.bias": torch.ones(16).long()}, "fc3.bias is torch.int64"),
        (lambda state: {**state, "fc3.bias": torch.ones(16).to(torch.complex64)}, "fc3.bias is torch.complex64"),
        (lambda state: {**state, "fc3.bias": torch.full((16,), torch.inf)}, "fc3.bias holds NaN or infinite"),
        (lambda state: {**state, "fc3.bias": torch.ones(0)}, "fc3.bias has 0 elements"),
        (lambda state: {**state, "fc3.bias": torch.ones(1).expand(10**9)}, "fc3.bias has 1000000000 elements"),
        (
            lambda state: {**state, "upsample.up_layers.1.weight": torch.ones(1, 1, 1, 4)},
            "upsample.up_layers.1.weight: found 4 taps, expected 2 * factor + 1",
        ),
        (
            lambda state: {**state, "upsample.resnet.conv_in.weight": torch.ones(5, 6, 1)},
            "found 1 frames, expected 2 * pad + 1",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Any]], Any], message: str, reference: ModuleType, tmp_path: Path
) -> None:
    found = _read(tmp_path / "model.pt", _saved(change(reference.random_state())))
    assert found is not None
    assert message in found


@pytest.mark.parametrize("family", ["fatchord", "univoc"])
def test_every_tensor_is_needed_and_its_shape_checked(family: str, reference: ModuleType, tmp_path: Path) -> None:
    whole = reference.random_state() if family == "fatchord" else reference.random_univoc_state()
    for name, value in whole.items():
        for changed in (None, value[..., None], torch.cat([value, value]), value.reshape(-1)[:1]):
            if changed is not None and changed.shape == value.shape:
                continue
            if changed is None and "up_layers" in name:  # without its last stage, a network of a shorter hop is whole
                continue
            state = _without(whole, name) if changed is None else {**whole, name: changed}
            assert _read(tmp_path / "model.pt", _saved({"model": state, "scaler": {}})), (name, changed is None)


def test_the_message_has_torchaudio_s_own_names(shared_data: Path, tmp_path: Path) -> None:
    state = torch.load(shared_data / "oracles/torchaudio/wavernn_small_8bits.pth", weights_only=True)
    for name in ("fc.bias", "upsample.resnet.melresnet_model.4.resblock_model.3.weight", "rnn1.bias_hh_l0"):
        message = _read(tmp_path / "model.pt", _saved({**state, name: torch.ones(3)}))
        assert message is not None
        assert f"{name}: found shape [3]" in message


# Damage


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=list(FORMATS))
def test_truncated_files_are_refused(zipped: bool, reference: ModuleType, tmp_path: Path) -> None:
    content = _saved(reference.random_state(), zipped)
    for length in {*range(64), *range(0, len(content), len(content) // 150), len(content) - 1}:
        assert _read(tmp_path / "model.pt", content[:length]), length


@pytest.mark.parametrize("zipped", FORMATS.values(), ids=list(FORMATS))
def test_flipped_bits_are_refused_or_harmless(zipped: bool, reference: ModuleType, tmp_path: Path) -> None:
    content = _saved(reference.random_state(), zipped)
    choose = random.Random(1)
    # Every byte of what comes first, then anywhere.
    places = [*range(200), *(choose.randrange(len(content)) for _ in range(400))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << choose.randrange(8)
        _read(tmp_path / "model.pt", bytes(damaged))


def test_flipped_bits_of_weights_are_noticed(reference: ModuleType, tmp_path: Path) -> None:
    content = bytearray(_saved(reference.random_state()))
    weight = reference.random_state()["I.weight"].numpy().tobytes()
    content[bytes(content).index(weight)] ^= 1
    message = _read(tmp_path / "model.pt", bytes(content))
    assert message is not None
    assert "does not have the checksum that it was stored with" in message


def test_any_bytes_are_refused(tmp_path: Path) -> None:
    hypothesis = pytest.importorskip("hypothesis", reason="draws random files")
    strategies = hypothesis.strategies
    starts = strategies.sampled_from(
        [b"", b"PK", b"PK\x03\x04", b"\x80", b"\x80\x02", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"]
    )

    @hypothesis.settings(max_examples=200, deadline=None, database=None)
    @hypothesis.given(starts, strategies.binary(max_size=300))
    def check(start: bytes, rest: bytes) -> None:
        assert _read(tmp_path / "model.pt", start + rest)

    check()


@pytest.mark.parametrize("family", ["fatchord", "coqui", "univoc"])
def test_any_configuration_gives_a_checkpoint_or_an_error(family: str, request: pytest.FixtureRequest) -> None:
    hypothesis = pytest.importorskip("hypothesis", reason="draws random configurations")
    if family == "univoc":
        pytest.importorskip("yaml", reason="univoc's configuration is YAML")
    strategies = hypothesis.strategies
    path: Path = request.getfixturevalue(family)
    sections = {
        "fatchord": {
            "": "sample_rate hop_length fmin fmax min_level_db mel_range mode bits mu_law pad peak rnn_dims temperature"
        },
        "coqui": {
            "audio": "sample_rate hop_length fft_size mel_fmin mel_fmax max_norm symmetric_norm signal_norm stats_path",
            "model_args": "mode mulaw upsample_factors rnn_dims use_aux_net",
        },
        "univoc": {
            "preprocess": "sr hop_length n_fft top_db ref_db mulaw",
            "model": "bits n_mels sr",
            "waveform": "preemphasis peak",
            "sampling": "temperature",
        },
    }[family]
    values = strategies.recursive(
        strategies.none()
        | strategies.booleans()
        | strategies.integers(-5, 70000)
        | strategies.just(10**400)
        | strategies.floats()
        | strategies.sampled_from(["", "raw", "mold", "10", "9" * 5000, "${preprocess.sr}", "${a}", "reflect"]),
        lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=3), inner),
        max_leaves=4,
    )

    def of(names: str) -> Any:
        return strategies.fixed_dictionaries({}, optional={name: values for name in names.split()})

    drawn = (
        of(sections[""])
        if "" in sections
        else strategies.fixed_dictionaries({}, optional={name: values | of(names) for name, names in sections.items()})
    )
    name = {"fatchord": "hparams.json", "coqui": "config.json", "univoc": "config.yaml"}[family]

    @hypothesis.settings(max_examples=150, deadline=None, database=None)
    @hypothesis.given(drawn)
    def check(config: Any) -> None:
        (path.parent / name).write_text(json.dumps(config))  # JSON is YAML
        with contextlib.suppress(CheckpointError):
            read_checkpoint(path)

    check()
