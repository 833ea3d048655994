"""Averaged weights in a checkpoint: preferred, completed from the model, or left out with a note."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are PyTorch files")

from wavernn_trt.export.checkpoints.state import StoredState
from wavernn_trt.export.errors import CheckpointError

State = dict[str, Any]


def _is_state(stored: StoredState, expected: Mapping[str, Any]) -> None:
    assert list(stored.state) == list(expected)
    for name, value in expected.items():
        assert stored.state[name].dtype == torch.float32
        assert torch.equal(stored.state[name], value), name


def _under(prefix: str, state: Mapping[str, Any]) -> State:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "entry"),
    [
        (lambda ema: {"ema": ema}, "ema"),
        (lambda ema: {"ema": {"shadow": ema, "decay": 0.99}}, "ema.shadow"),
        (lambda ema: {"ema": {"module": _under("module.", ema)}}, "ema.module"),
        (lambda ema: {"model_ema": ema}, "model_ema"),
        (lambda ema: {"state_dict_ema": ema}, "state_dict_ema"),
        (lambda ema: {"averaged": {"n_averaged": torch.tensor(4), **_under("module.", ema)}}, "averaged"),
        (lambda ema: {"swa": {"n_averaged": torch.tensor(4), **_under("module.", ema)}}, "swa"),
        (lambda ema: {"average_model": ema}, "average_model"),
    ],
)
def test_averaged_weights_are_preferred_with_a_note(
    wrap: Callable[[State], State], entry: str, state: State, other: State, read: Callable[..., StoredState]
) -> None:
    stored = read({"model": state, **wrap(other)})
    _is_state(stored, other)
    assert stored.entry == entry
    assert stored.notes == (f"averaged weights taken from {entry!r}; --entry model takes the others",)
    _is_state(read({"model": state, **wrap(other)}, "model"), state)
    _is_state(read({"model": state, **wrap(other)}, entry), other)


def test_averages_beside_the_model_in_one_dictionary_are_found(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    stored = read({**_under("model.", state), **_under("model_ema.module.", other)})
    _is_state(stored, other)
    assert stored.notes == ("averaged weights taken from 'model_ema.module'; --entry model takes the others",)
    stored = read({**state, **_under("ema.", other)})
    _is_state(stored, other)
    _is_state(read({**state, **_under("ema.", other)}, "."), state)


def test_two_averages_are_an_error(state: State, other: State, read: Callable[..., StoredState]) -> None:
    with pytest.raises(CheckpointError, match=r"found 2 networks: ema_0\.99 .*, ema_0\.999 "):
        read({"ema_0.99": state, "ema_0.999": other})


def test_averages_without_statistics_and_kernels_are_completed_from_the_model(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    lacking = [name for name in state if "running_" in name or "up_layers" in name]
    ema = {name: value for name, value in other.items() if name not in lacking}
    stored = read({"model": state, "ema": ema})
    _is_state(stored, {name: state[name] if name in lacking else other[name] for name in state})
    assert stored.notes == (
        "averaged weights taken from 'ema'; --entry model takes the others",
        f"'ema' lacks running statistics and upsampling kernels: {len(lacking)} tensors taken from 'model'",
    )


def test_averages_that_lack_trained_weights_are_not_used(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    ema = {name: value for name, value in other.items() if not name.startswith("fc3.")}
    stored = read({"model": state, "ema": ema})
    _is_state(stored, state)
    assert stored.notes == ("averaged weights in 'ema' lack fc3.weight and 1 more: not used",)
    with pytest.raises(CheckpointError, match="'ema' lack fc3"):
        read({"model": state, "ema": ema}, "ema")


@pytest.mark.parametrize("kind", ["all", "parameters", "trained", "by number"])
def test_averages_in_a_list_follow_the_model_s_parameters(
    kind: str, state: State, other: State, read: Callable[..., StoredState]
) -> None:
    names = [name for name in state if kind == "all" or "running_" not in name]
    names = [name for name in names if kind != "trained" or "up_layers" not in name]
    shadow: Any = [other[name] for name in names]
    if kind == "by number":
        shadow = dict(enumerate(shadow))
    value = {"model": {"step": torch.tensor([3]), **state}, "ema": {"decay": 0.999, "shadow_params": shadow}}
    value["ema"]["collected_params"] = [torch.ones(2)]
    stored = read(value)
    assert stored.state.keys() == state.keys()
    for name in state:
        assert torch.equal(stored.state[name], (other if name in names else state)[name]), name
    assert stored.entry == "ema.shadow_params"
    assert stored.notes[0] == "averaged weights taken from 'ema.shadow_params'; --entry model takes the others"


def test_averages_under_names_without_dots_are_matched(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    squeezed = {f"model_ema.{name.replace('.', '')}": value for name, value in other.items() if "running" not in name}
    squeezed |= {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(7)}
    stored = read({"state_dict": {**_under("model.", state), **squeezed}})
    for name in state:
        assert torch.equal(stored.state[name], (state if "running" in name else other)[name]), name
    assert stored.notes[0] == "averaged weights taken from 'state_dict.model_ema'; --entry state_dict takes the others"


def test_averages_that_cannot_be_matched_are_not_used_and_noted(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    shadow = list(other.values())
    for wrong in (shadow[:-1], [*shadow[1:], shadow[0]]):
        stored = read({"model": state, "ema": {"shadow_params": wrong}})
        _is_state(stored, state)
        assert stored.notes == (
            "averaged weights in 'ema.shadow_params' have no names, and do not match the model's: not used",
        )
        with pytest.raises(CheckpointError, match="have no names, and do not match"):
            read({"model": state, "ema": {"shadow_params": wrong}}, "ema")


def test_the_project_s_own_training_state_gives_its_averages(
    state: State, other: State, read: Callable[..., StoredState]
) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    stored = read({"weights": state, "model": other, "optimizer": optimizer, "kept_out": [], "step": 4})
    _is_state(stored, other)
    assert stored.notes == ("averaged weights taken from 'model'; --entry weights takes the others",)
