"""The sizes of a network in fatchord's layout, read from the shapes of a state dict.

Names are fatchord's, which Coqui and turian share; torchaudio's are translated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from wavernn_trt.export.errors import CheckpointError

_RESNET = "upsample.resnet."
_STAGE = re.compile(r"upsample\.up_layers\.(\d+)\.weight")
_BLOCK = re.compile(r"upsample\.resnet\.layers\.(\d+)\.")
_RESBLOCK_MEMBERS = {"0": "conv1", "1": "batch_norm1", "3": "conv2", "4": "batch_norm2"}


@dataclass(frozen=True)
class FatchordLayout:
    """Sizes of one network in fatchord's layout."""

    n_mels: int
    """Mel bins."""
    hidden_size: int
    """Units of each recurrent layer."""
    layers: int
    """Recurrent layers; turian has one, with two fully connected layers; the others have two, with three."""
    fc_sizes: tuple[int, ...]
    """Widths of the hidden fully connected layers."""
    outputs: int
    """Width of the last layer."""
    factors: tuple[int, ...]
    """Repetitions of each upsampling stage; empty where the frames are interpolated instead."""
    pad: int
    """Zero frames that the residual network needs on both sides of the mel; 0 without such a network."""
    compute_size: int
    """Channels inside the residual network."""
    aux_size: int
    """Output channels of the residual network."""
    blocks: int
    """Residual blocks."""
    uses_aux: bool
    """Whether the decoder reads the residual network's output."""

    @property
    def hop_length(self) -> int | None:
        """Samples per frame; ``None`` without upsampling stages."""
        return math.prod(self.factors) if self.factors else None

    @property
    def aux_columns(self) -> int:
        """Columns of the conditioning from the residual network."""
        return self.aux_size if self.uses_aux else 0

    @property
    def part(self) -> int:
        """Columns of ``aux`` that each layer after the first reads: a half (turian) or a quarter of all."""
        return self.aux_columns // (2 * self.layers)

    @property
    def first_part(self) -> int:
        """Columns of ``aux`` that ``I`` reads; in turian's network one fewer than `part`."""
        return self.part - 1 if self.layers == 1 and self.uses_aux else self.part


def read_layout(state: Mapping[str, Tensor]) -> FatchordLayout:
    """Returns the sizes, read from some tensors' shapes; the others are to be compared with `expected_shapes`.

    Raises:
        CheckpointError: a tensor that the sizes are read from is missing or has no such dimension.
    """
    layers = 2 if any(name.startswith(("rnn2.", "fc2.")) for name in state) else 1
    fc_sizes = tuple(_size(state, f"fc{i + 1}.weight", 0, 2) for i in range(layers))
    input_size = _size(state, "I.weight", 1, 2)
    widths = [_size(state, f"upsample.up_layers.{2 * i + 1}.weight", 3, 4) for i in range(_count(state, _STAGE))]
    for i, width in enumerate(widths):
        if width < 3 or width % 2 == 0:
            raise CheckpointError(
                f"upsample.up_layers.{2 * i + 1}.weight: found {width} taps, expected 2 * factor + 1, an odd number "
                "from 3 on; this upsampling network is not one of the known ones"
            )
    if any(name.startswith(_RESNET) for name in state):
        compute_size, n_mels, kernel = (_size(state, f"{_RESNET}conv_in.weight", axis, 3) for axis in range(3))
        aux_size = _size(state, f"{_RESNET}conv_out.weight", 0, 3)
        if kernel < 3 or kernel % 2 == 0:
            raise CheckpointError(
                f"{_RESNET}conv_in.weight: found {kernel} frames, expected 2 * pad + 1 with pad at least 1; "
                "train with a padding of at least one frame"
            )
        pad, blocks, uses_aux = (kernel - 1) // 2, _count(state, _BLOCK), input_size != 1 + n_mels
    else:
        n_mels, pad, compute_size, aux_size, blocks, uses_aux = input_size - 1, 0, 0, 0, 0, False
    if not widths and not pad:
        raise CheckpointError(
            "found neither upsample.up_layers.* nor upsample.resnet.*, expected one of them; "
            "this is not a complete checkpoint"
        )
    return FatchordLayout(
        n_mels=n_mels,
        hidden_size=_size(state, "rnn1.weight_hh_l0", 1, 2),
        layers=layers,
        fc_sizes=fc_sizes,
        outputs=_size(state, "fc3.weight", 0, 2),
        factors=tuple((width - 1) // 2 for width in widths),
        pad=pad,
        compute_size=compute_size,
        aux_size=aux_size,
        blocks=blocks,
        uses_aux=uses_aux,
    )


def from_torchaudio_name(name: str) -> str:
    """Returns fatchord's name of one of torchaudio's tensors; any other name unchanged."""
    if name.startswith("fc."):
        return "I" + name[2:]
    name = name.replace("upsample.upsample_layers.", "upsample.up_layers.")
    match = re.fullmatch(r"upsample\.resnet\.melresnet_model\.(\d+)\.(?:resblock_model\.([0134])\.)?(\w+)", name)
    if not match:
        return name
    index, member, last = int(match[1]), match[2], match[3]
    if member is not None:
        return f"{_RESNET}layers.{index - 3}.{_RESBLOCK_MEMBERS[member]}.{last}"
    return _RESNET + {0: "conv_in", 1: "batch_norm"}.get(index, "conv_out") + f".{last}"


def to_torchaudio_name(name: str, blocks: int) -> str:
    """The reverse of `from_torchaudio_name`, for error messages."""
    if name.startswith("I."):
        return "fc" + name[1:]
    name = name.replace("upsample.up_layers.", "upsample.upsample_layers.")
    for member, index in (("conv_in", 0), ("batch_norm", 1), ("conv_out", 3 + blocks)):
        name = name.replace(f"{_RESNET}{member}.", f"{_RESNET}melresnet_model.{index}.")
    match = re.fullmatch(r"upsample\.resnet\.layers\.(\d+)\.(\w+)\.(\w+)", name)
    if not match:
        return name
    inner = {value: key for key, value in _RESBLOCK_MEMBERS.items()}[match[2]]
    return f"{_RESNET}melresnet_model.{int(match[1]) + 3}.resblock_model.{inner}.{match[3]}"


def _count(state: Mapping[str, Tensor], pattern: re.Pattern[str]) -> int:
    return len({match[1] for name in state if (match := pattern.match(name))})


def _size(state: Mapping[str, Tensor], name: str, axis: int, rank: int) -> int:
    if name not in state:
        raise CheckpointError(f"{name} is missing; this is not a complete checkpoint of a known family")
    shape = tuple(state[name].shape)
    if len(shape) != rank:
        raise CheckpointError(f"{name}: found shape {list(shape)}, expected {rank} dimensions; the file is damaged")
    return shape[axis]
