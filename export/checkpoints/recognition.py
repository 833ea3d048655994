"""Checks that tensors are a complete model of a family, and resolves the kind of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wavernn_trt.export.config import Family, Output
from wavernn_trt.export.errors import CheckpointError, listed
from wavernn_trt.export.families.fatchord import expected_shapes
from wavernn_trt.export.families.fatchord_layout import from_torchaudio_name, read_layout, to_torchaudio_name
from wavernn_trt.export.families.univoc import UnivocConditioner, UnivocStep

OUTPUTS: dict[Family, tuple[Output, ...]] = {
    "univoc": ("categorical",),
    "fatchord": ("categorical", "logistic_mixture", "gaussian"),
    "torchaudio": ("categorical", "logistic_mixture"),
    "coqui": ("categorical", "logistic_mixture", "gaussian"),
    "turian": ("categorical", "logistic_mixture", "gaussian"),
}
"""Possible outputs of each family."""

_WORDS: dict[str, Output] = {
    "raw": "categorical",
    "bits": "categorical",
    "mol": "logistic_mixture",
    "mold": "logistic_mixture",
    "gauss": "gaussian",
    "gaussian": "gaussian",
}
_MOST_BITS = 16


def check_state(family: Family, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Checks that exactly the family's tensors exist, with consistent shapes.

    Returns:
        The network's sizes by name.

    Raises:
        CheckpointError: names the first tensor that is missing, unknown or of the wrong shape.
    """
    if family == "univoc":
        expected, sizes = _univoc(state)
        _compare(state, expected)
        return sizes
    if family == "torchaudio":
        renamed = {from_torchaudio_name(name): value for name, value in state.items()}
        layout = read_layout(renamed)
        expected = expected_shapes(layout)
        _compare(state, {to_torchaudio_name(name, layout.blocks): shape for name, shape in expected.items()})
    else:
        layout = read_layout(state)
        _compare(state, expected_shapes(layout))
    sizes = {
        "n_mels": layout.n_mels,
        "outputs": layout.outputs,
        "hidden_size": layout.hidden_size,
        "fc_size": layout.fc_sizes[0],
        "uses_aux": layout.uses_aux,
        "uses_upsampling": bool(layout.factors),
    }
    if layout.factors:
        sizes |= {"factors": layout.factors, "hop_length": layout.hop_length}
    if layout.pad:
        sizes |= {"pad": layout.pad, "compute_size": layout.compute_size, "aux_size": layout.aux_size}
        sizes |= {"blocks": layout.blocks}
    return sizes


def resolve_output(family: Family, outputs: int, mode: object) -> Output:
    """Returns the kind of the last layer's outputs.

    Args:
        family: the checkpoint's family.
        outputs: width of the last layer.
        mode: ``raw``, ``bits``, ``mol``, ``mold``, ``gauss``, a number of bits, or ``None`` to use the width.

    Raises:
        CheckpointError: the mode is unknown, not the family's, contradicts the width, or is needed and missing.
    """
    output: Output
    if mode is None:
        output = "logistic_mixture" if outputs == 30 else "categorical"
        if outputs == 2 and family == "coqui":
            output = "gaussian"
        elif outputs == 2:
            raise CheckpointError(
                "mode: found 2 outputs, which are a Gaussian (--set mode=gauss), classes of 1 bit (--set mode=1) or a "
                "beta distribution (not supported), and no entry or settings file decides; state it"
            )
    elif isinstance(mode, int) and not isinstance(mode, bool):
        if not 1 <= mode <= _MOST_BITS or outputs != 2**mode:
            raise CheckpointError(
                f"mode: found {mode} bits for {outputs} outputs, expected outputs = 2 ** bits; "
                "leave mode out, or give the configuration that belongs to this checkpoint"
            )
        output = "categorical"
    elif isinstance(mode, str) and mode.lower() == "beta":
        raise CheckpointError("mode: found beta, a beta distribution, which is not supported; expected another output")
    elif isinstance(mode, str) and mode.isdecimal() and len(mode) <= 2:
        return resolve_output(family, outputs, int(mode))
    elif isinstance(mode, str) and mode.lower() in _WORDS:
        output = _WORDS[mode.lower()]
    else:
        raise CheckpointError(f"mode: found {mode!r}, expected {', '.join(_WORDS)} or a number of bits")
    if output not in OUTPUTS[family]:
        raise CheckpointError(
            f"mode: found {outputs} outputs, {output}, expected {' or '.join(OUTPUTS[family])} for {family}; "
            "leave mode out, or name the family with --family"
        )
    right = {
        "categorical": outputs >= 2 and outputs & (outputs - 1) == 0,
        "logistic_mixture": outputs == 30,
        "gaussian": outputs == 2,
    }[output]
    if not right:
        raise CheckpointError(
            f"last layer: found {outputs} outputs, {output}; expected a power of two for classes, 30 for a mixture of "
            "ten logistics, 2 for a Gaussian; leave mode out, or check that this is a vocoder of a known family"
        )
    return output


def _univoc(state: Mapping[str, Tensor]) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    def size(name: str, axis: int) -> int:
        if name not in state:
            raise CheckpointError(f"{name} is missing; this is not a complete univoc checkpoint")
        shape = tuple(state[name].shape)
        if len(shape) != 2:
            raise CheckpointError(f"{name}: found shape {list(shape)}, expected 2 dimensions; the file is damaged")
        return shape[axis]

    outputs, embedding = size("embedding.weight", 0), size("embedding.weight", 1)
    hidden, fc = size("rnn2.weight_hh_l0", 1), size("fc1.weight", 0)
    conditioning, n_mels = size("rnn1.weight_hh_l0", 1), size("rnn1.weight_ih_l0", 1)
    with torch.device("meta"):
        step = UnivocStep(outputs, embedding, 2 * conditioning, hidden, fc)
        tensors = {**step.state_dict(), **UnivocConditioner(n_mels, conditioning).state_dict()}
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = {
        "n_mels": n_mels,
        "outputs": outputs,
        "conditioning_size": conditioning,
        "embedding_size": embedding,
        "hidden_size": hidden,
        "fc_size": fc,
    }
    return expected, sizes


def _compare(state: Mapping[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    missing = [name for name in expected if name not in state]
    if missing:
        raise CheckpointError(
            f"{some(missing)} missing, found {len(state)} of {len(expected)} tensors; "
            "this is not a complete checkpoint: save all of model.state_dict()"
        )
    unknown = [name for name in state if name not in expected]
    if unknown:
        raise CheckpointError(
            f"found {some(unknown)}, expected only {len(expected)} tensors named {some(expected)}; "
            "this is a variant of the architecture that is not known"
        )
    for name, shape in expected.items():
        found = tuple(state[name].shape)
        if found != shape:
            raise CheckpointError(
                f"{name}: found shape {list(found)}, expected {list(shape)} for the sizes of the other tensors; "
                "the file is damaged or of an unknown variant of the architecture"
            )


def some(names: Any) -> str:
    """Returns the first four names and the number of the others, for messages."""
    return listed([str(name)[:80] for name in names], 4)
