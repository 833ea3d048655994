"""Where `load_state` finds a network in a checkpoint, and the other values that it returns."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")

from wavernn_trt.export.checkpoints.checkpoint import read_checkpoint
from wavernn_trt.export.checkpoints.state import StoredState, load_state
from wavernn_trt.export.errors import CheckpointError

State = dict[str, Any]
ENTRIES = (
    *("model_state", "model_state_dict", "state_dict", "model", "net", "network", "weights", "params", "generator"),
    *("vocoder", "wavernn", "module", "ema", "model_ema", "ema_model", "ema_state_dict", "averaged", "swa", "shadow"),
    *("average_model", "a name that no project uses"),
)
PREFIXES = (
    *("module.", "_orig_mod.", "model.", "net.", "network.", "generator.", "vocoder.", "wavernn.", "_model."),
    *("ema_model.", "module._orig_mod.", "_orig_mod.module.model.", "a_name_that_no_project_uses."),
)


def _is_state(stored: StoredState, expected: Mapping[str, Any]) -> None:
    assert list(stored.state) == list(expected)
    for name, value in expected.items():
        assert stored.state[name].dtype == torch.float32
        assert torch.equal(stored.state[name], value), name


def _under(prefix: str, state: Mapping[str, Any]) -> State:
    return {prefix + name: value for name, value in state.items()}


# Entries and prefixes


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_network_is_found_in_any_entry(entry: str, state: State, read: Callable[..., StoredState]) -> None:
    stored = read({"epoch": 3, entry: state, "optimizer": {"state": {}, "param_groups": []}})
    _is_state(stored, state)
    assert stored.entry == entry
    assert stored.keys == ("epoch", entry, "optimizer")
    assert stored.beside == {"epoch": 3}


@pytest.mark.parametrize("family", ["fatchord", "univoc", "torchaudio"])
def test_prefixes_are_removed_from_names_of_every_family(
    family: str, reference: ModuleType, read: Callable[..., StoredState]
) -> None:
    state = reference.random_univoc_state() if family == "univoc" else reference.random_state()
    if family == "torchaudio":
        from wavernn_trt.export.families.fatchord_layout import to_torchaudio_name

        state = {to_torchaudio_name(name, reference.SMALL.blocks): value for name, value in state.items()}
    for prefix in ("", *PREFIXES):
        _is_state(read(_under(prefix, state)), state)
        _is_state(read({"state_dict": _under(prefix, state)}), state)


def test_the_families_are_read_through_wrappers(state: State, reference: ModuleType, tmp_path: Path) -> None:
    torch.save({"model_state": state, "optimizer_state": {"state": {}, "param_groups": []}}, tmp_path / "rtvc.pt")
    assert read_checkpoint(tmp_path / "rtvc.pt").model.config.family == "fatchord"
    torch.save({"net": _under("_orig_mod.", reference.random_univoc_state())}, tmp_path / "univoc.pt")
    assert read_checkpoint(tmp_path / "univoc.pt", preset="univoc-0.2").model.config.family == "univoc"


def test_a_bare_state_dict_has_no_entry_and_keeps_other_values(state: State, read: Callable[..., StoredState]) -> None:
    stored = read({"step": torch.tensor([5]), **state, "epoch": 7, "config": {"rate": 16000}})
    _is_state(stored, state)
    assert stored.entry is None
    assert stored.beside == {"epoch": 7, "config": {"rate": 16000}}
    assert stored.notes == ()


def test_deeper_entries_are_named_with_dots(state: State, read: Callable[..., StoredState]) -> None:
    stored = read({"model": {"vocoder": state, "sizes": {"rnn": 8}}, "step": 4})
    _is_state(stored, state)
    assert stored.entry == "model.vocoder"
    assert stored.beside == {"model": {"sizes": {"rnn": 8}}, "step": 4}
    assert read([state, {"epoch": 3}]).entry == "0"


def test_counters_are_left_out(state: State, read: Callable[..., StoredState]) -> None:
    counted = {"step": torch.tensor([1]), "n_averaged": torch.tensor(3), **state}
    counted["upsample.resnet.batch_norm.num_batches_tracked"] = torch.tensor(9)
    _is_state(read(counted), state)
    _is_state(read(_under("module.", counted)), state)


def test_random_wrappers_and_prefixes_give_the_same_tensors_back(state: State, tmp_path: Path) -> None:
    hypothesis = pytest.importorskip("hypothesis", reason="draws random wrappers")
    strategies = hypothesis.strategies
    plain = strategies.none() | strategies.booleans() | strategies.integers(-9, 9) | strategies.text(max_size=5)
    beside = strategies.dictionaries(
        strategies.sampled_from(["epoch", "config", "loss", "hparams"]), plain | strategies.lists(plain, max_size=3)
    )
    wrappers = strategies.lists(strategies.tuples(strategies.sampled_from(ENTRIES), beside), max_size=4)
    prefixes = strategies.lists(strategies.sampled_from(PREFIXES), max_size=4)

    @hypothesis.settings(max_examples=60, deadline=None, database=None)
    @hypothesis.given(wrappers, prefixes, strategies.booleans())
    def check(wrappers: list[tuple[str, State]], prefixes: list[str], zipped: bool) -> None:
        value: Any = _under("".join(prefixes), state)
        expected: Any = {}
        for name, others in wrappers:
            value = {**others, name: value}
            expected = {**others, **({name: expected} if expected else {})}
        torch.save(value, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
        stored = load_state(tmp_path / "model.pt")
        _is_state(stored, state)
        assert stored.entry == (".".join(name for name, _ in reversed(wrappers)) or None)
        assert stored.beside == expected

    check()


# Several networks in one file


def test_a_lightning_module_s_generator_is_read_without_its_discriminator(
    state: State, read: Callable[..., StoredState]
) -> None:
    module = {**_under("generator.", state), **_under("discriminator.", {"conv.weight": torch.ones(3)})}
    stored = read({"state_dict": module, "hyper_parameters": {"lr": 1e-3}, "optimizer_states": [{"param_groups": []}]})
    _is_state(stored, state)
    assert stored.entry == "state_dict"
    assert stored.beside == {"hyper_parameters": {"lr": 1e-3}}
    assert stored.notes == ("left out: discriminator (1 tensors)",)


def test_a_discriminator_of_the_same_kind_is_not_taken_for_the_network(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    _is_state(read({"generator": state, "discriminator": other}), state)
    _is_state(read({"netG": state, "netD": other}), state)
    _is_state(read({**_under("discriminator.", other), **_under("generator.", state)}), state)
    _is_state(read({**state, **_under("disc.", {"a.weight": torch.ones(2)})}), state)


def test_another_model_in_the_file_is_left_out_and_named(state: State, read: Callable[..., StoredState]) -> None:
    tacotron = {"encoder.weight": torch.ones(3, 3), "decoder.weight": torch.ones(2, 3)}
    stored = read({"tacotron": tacotron, "vocoder": state, "rng": torch.zeros(9, dtype=torch.uint8)})
    _is_state(stored, state)
    assert stored.notes == ("left out: tacotron (2 tensors)",)


def test_networks_of_equal_rank_are_an_error_that_names_them(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"found 2 networks: first \(45 tensors\), second\.net \(45 tensors\); expected one: choose with --entry",
    ):
        read({"first": state, "second": {"net": other}})
    for entry in ("second", "second.net"):
        stored = read({"first": state, "second": {"net": other}}, entry)
        _is_state(stored, other)
        assert stored.entry == "second.net"
    assert read({"first": state, "second": dict(state)}).entry == "first"


def test_entry_reaches_names_in_one_flat_dictionary(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    flat = {"state_dict": {**_under("student.", state), **_under("teacher.module.", other)}}
    with pytest.raises(CheckpointError, match=r"state_dict\.student .*state_dict\.teacher\.module "):
        read(flat)
    _is_state(read(flat, "state_dict.teacher"), other)
    _is_state(read({"state_dict": _under("model.", state)}, "state_dict.model"), state)


def test_an_entry_that_is_not_there_is_refused_with_those_that_are(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    value = {"model": state, "ema": {"shadow": other}, "optimizer": {"state": {}, "param_groups": []}}
    with pytest.raises(
        CheckpointError, match=r"entry: found no 'modle', expected one of model \(45 tensors\), ema\.shadow \(45"
    ):
        read(value, "modle")
    with pytest.raises(CheckpointError, match="entry: 'optimizer' is an optimizer's state, expected one of model"):
        read(value, "optimizer")
    with pytest.raises(CheckpointError, match="holds one network of 45 tensors and no entries; leave entry out"):
        read(state, "model")


def test_read_checkpoint_takes_the_entry_and_returns_the_notes(state: State, other: State, tmp_path: Path) -> None:
    torch.save({"net": state, "ema": other}, tmp_path / "a.pt")
    averaged, chosen = read_checkpoint(tmp_path / "a.pt"), read_checkpoint(tmp_path / "a.pt", entry="net")
    assert torch.equal(averaged.state["I.weight"], other["I.weight"])
    assert torch.equal(chosen.state["I.weight"], state["I.weight"])
    assert averaged.notes[0] == "averaged weights taken from 'ema'; --entry net takes the others"
    with pytest.raises(CheckpointError, match="entry: found 3, expected the name of an entry"):
        read_checkpoint(tmp_path / "a.pt", entry=3)


# Files without a network


@pytest.mark.parametrize(
    "value",
    [
        {"state": {}, "param_groups": []},
        {"state": {0: {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]},
    ],
)
def test_an_optimizer_s_state_is_refused(value: State, read: Callable[..., StoredState]) -> None:
    with pytest.raises(CheckpointError, match=r"found an optimizer's state, expected .* such as latest_weights\.pyt$"):
        read(value, name="latest_optim.pyt")
    with pytest.raises(CheckpointError, match=r"such as wavernn_weights\.pyt$"):
        read(value, name="wavernn_optim.pyt")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"state_dict": {}}, "found an empty dictionary"),
        ([1, 2], "found a list, expected a dictionary of tensors"),
        (
            {"params": [torch.ones(2), torch.ones(3)]},
            "found tensors without names in 'params', expected weights by name",
        ),
        ({"ema": [torch.ones(2), torch.ones(3)]}, "'ema' have no names, and there is no model to take them from"),
        (torch.ones(80, 9), r"found a Tensor of shape \[80, 9\], expected a dictionary of tensors"),
        ({"epoch": 3, "config": {"a": 1}}, "found no tensors in its entries epoch, config, expected weights"),
        (
            {"optimizer": {"param_groups": []}, "epoch": 3},
            r"entries optimizer, epoch \(optimizer: an optimizer's state",
        ),
    ],
)
def test_files_without_a_network_are_refused(value: Any, message: str, read: Callable[..., StoredState]) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(value)


# Kinds of weights


def test_arrays_are_read_as_weights(state: State, read: Callable[..., StoredState]) -> None:
    arrays = {name: value.numpy() for name, value in state.items()}
    _is_state(read(arrays), state)
    _is_state(read({"params": {name: np.asfortranarray(value) for name, value in arrays.items()}}), state)
    _is_state(read({name: value.astype(">f8") for name, value in arrays.items()}), state)
    assert read({"params": arrays, "mean": np.ones(3)}).beside == {"mean": [1.0, 1.0, 1.0]}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weight_normalisation_is_folded_as_torch_computes_it(state: State, read: Callable[..., StoredState]) -> None:
    old = torch.nn.utils.weight_norm(torch.nn.Linear(5, 3))
    new = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, 3))
    expected = {}
    for layer in (old, new):
        with torch.no_grad():
            for value in layer.parameters():
                value.mul_(1.7).add_(0.1)
        layer(torch.ones(1, 5))
        expected[layer] = layer.weight.detach().clone()
    normalised = {name: value for name, value in state.items() if not name.startswith(("fc1.", "fc2."))}
    normalised |= {f"fc1.{name}": value for name, value in old.state_dict().items()}
    normalised |= {f"fc2.{name}": value for name, value in new.state_dict().items()}
    stored = read({"model": normalised})
    assert stored.state.keys() == state.keys()
    torch.testing.assert_close(stored.state["fc1.weight"], expected[old])
    torch.testing.assert_close(stored.state["fc2.weight"], expected[new])
    assert stored.notes == ("weight normalisation folded into 2 weights",)


def test_a_normalised_recurrent_layer_is_still_recognised(state: State, read: Callable[..., StoredState]) -> None:
    weight = state.pop("rnn1.weight_hh_l0")
    norm = weight.norm(dim=1, keepdim=True)
    parts = {"rnn1.weight_hh_l0_g": norm, "rnn1.weight_hh_l0_v": weight / 3}
    stored = read(_under("net.", {**state, **parts}))
    torch.testing.assert_close(stored.state["rnn1.weight_hh_l0"], weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fc1.weight_g": torch.ones(1, 12), "fc1.weight_v": torch.ones(7, 12)},
            "fc1.weight is weight-normalised over other axes",
        ),
        ({"fc1.weight_orig": torch.ones(7, 12), "fc1.weight_u": torch.ones(7)}, "fc1.weight_orig is one part of a"),
        ({"fc1.parametrizations.weight.original": torch.ones(7, 12)}, "is one part of a weight"),
        ({"fc1._packed_params._packed_params": (1, 2)}, "fc1._packed_params._packed_params holds quantised weights"),
        ({"fc1.weight": torch.ones(7, 12).to_sparse()}, "torch.sparse_coo; expected dense"),
        ({"fc1.weight": torch.ones(7, 12, device="meta")}, "fc1.weight has a shape and no values"),
        ({7: torch.ones(3)}, "entry '7' is a Tensor without a name"),
    ],
)
def test_weights_of_other_kinds_are_refused_by_name(
    change: State, message: str, state: State, read: Callable[..., StoredState]
) -> None:
    state.pop("fc1.weight")
    with pytest.raises(CheckpointError, match=message):
        read({"model": {**state, **change}})


@pytest.mark.skipif(not hasattr(torch, "quantize_per_tensor"), reason="this torch has no quantised tensors any more")
@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_refused(state: State, read: Callable[..., StoredState]) -> None:
    packed = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.GRU(3, 3)), dtype=torch.qint8)
    with pytest.raises(CheckpointError, match=r"packed objects of TorchScript .* before the quantisation"):
        read({"model": packed.state_dict()})
    quantised = torch.quantize_per_tensor(state["fc1.weight"], 0.1, 0, torch.qint8)
    with pytest.raises(CheckpointError, match=r"fc1\.weight is torch\.qint8, quantised; .* before the quantisation"):
        read({"model": {**state, "fc1.weight": quantised}})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused(state: State, read: Callable[..., StoredState]) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(CheckpointError, match=r"fc1\.weight is a nested tensor, expected dense"):
        read({**state, "fc1.weight": nested})


# Other values in the file


def test_plain_values_beside_the_weights_are_kept(state: State, read: Callable[..., StoredState]) -> None:
    stored = read(
        {
            "model": state,
            "config": {"audio": {"rate": 22050, "fmax": None}, "blocks": (5, 5, 8)},
            "loss": np.float64(4.5),
            "best": np.int64(3),
            "flag": np.bool_(True),
            "mean": np.array([[1.0, 2.0]]),
            "name": np.str_("lj"),
            "kind": np.dtype("float32"),
            "names": {"b", "a"},
            "count": collections.Counter({"a": 2}),
            "default": collections.defaultdict(list, {"a": [1]}),
            "size": torch.Size([2, 3]),
            "milestones": {1000: 0.5},
            "device": torch.device("cpu"),
            "date": np.datetime64("2020-01-01"),
            "objects": np.array([{"a": 1}], dtype=object),
            "dtype": np.float32,
            "random": torch.zeros(5000, dtype=torch.uint8),
            "losses": [0.5] * 5000,
        }
    )
    _is_state(stored, state)
    assert stored.beside == {
        "config": {"audio": {"rate": 22050, "fmax": None}, "blocks": [5, 5, 8]},
        "loss": 4.5,
        "best": 3,
        "flag": True,
        "mean": [[1.0, 2.0]],
        "name": "lj",
        "kind": "float32",
        "names": ["a", "b"],
        "count": {"a": 2},
        "default": {"a": [1]},
        "size": [2, 3],
        "milestones": {"1000": 0.5},
    }
    assert all(type(stored.beside[name]) in (float, int, bool, str) for name in ("loss", "best", "flag", "name"))


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_both_numpy_versions_are_read(module: str, state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "loss": np.float32(0.25)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pt").read_bytes()
    assert content.count(b"numpy._core.multiarray") + content.count(b"numpy.core.multiarray") == 1
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        content = content.replace(name + b"\n", module.encode() + b"\n")
    (tmp_path / "a.pt").write_bytes(content)
    assert load_state(tmp_path / "a.pt").beside == {"loss": 0.25}


def test_loading_does_not_change_torch_s_list_of_allowed_classes(
    state: State, read: Callable[..., StoredState]
) -> None:
    before = set(torch.serialization.get_safe_globals())
    read({"model": state, "loss": np.float64(1)})
    assert set(torch.serialization.get_safe_globals()) == before


def test_values_that_contain_themselves_are_read_to_an_end(state: State, read: Callable[..., StoredState]) -> None:
    config: State = {"rate": 8000}
    config["self"] = config
    wide: Any = [1]
    for _ in range(30):
        wide = [wide] * 10
    stored = read({"model": state, "config": config, "wide": wide})
    _is_state(stored, state)
    assert stored.beside["config"] == {"rate": 8000}
    assert stored.notes == ("too many values beside the weights: some settings in the file were not read",)


def test_objects_beside_the_weights_are_refused_by_name(state: State, read: Callable[..., StoredState]) -> None:
    with pytest.raises(CheckpointError) as refused:
        read({"model": state, "args": argparse.Namespace(rate=3), "path": Path("a/b")})
    assert "found pickled Python objects besides tensors (argparse.Namespace, pathlib." in str(refused.value)
    assert "torch.save({'model': c['model']}, 'weights.pt')" in str(refused.value)
