"""The table of weights equals the whole upsampling network, also at an utterance's edges."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the upsampling network is PyTorch's")

from torch.nn import functional

from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.families.upsampling import periodic_operator, upsample

FACTORS = [(5, 5, 11), (2, 3), (7,), (1, 5), (5, 1), (3, 1, 4), (2, 2, 2, 2, 2)]


def _kernels(factors: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(factors))
    return [torch.randn(1, 1, 1, 2 * factor + 1, generator=generator) for factor in factors]


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("pad", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 9])
def test_equals_the_network(factors: tuple[int, ...], pad: int, frames: int) -> None:
    kernels, hop_length = _kernels(factors), int(np.prod(factors))
    mel = torch.randn(1, 1, frames, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    full = upsample(functional.pad(mel, (pad, pad)), [kernel.double() for kernel in kernels])
    expected = full[0, 0, pad * hop_length : (pad + frames) * hop_length].numpy()

    operator = periodic_operator(kernels, pad)
    margin = operator.shape[1] // 2
    assert operator.shape[0] == hop_length
    rows = np.pad(mel[0, 0].numpy(), margin)
    windows = np.lib.stride_tricks.sliding_window_view(rows, 2 * margin + 1)  # [frames, 2 margin + 1]
    ours = (windows @ operator.T.astype(np.float64)).reshape(-1)
    np.testing.assert_allclose(ours, expected, atol=1e-6 * max(1, np.abs(operator).max()))


def test_margin_is_the_smallest_that_holds_every_weight() -> None:
    assert periodic_operator(_kernels((7,)), 2).shape == (7, 3)
    assert periodic_operator(_kernels((5, 5, 11)), 2).shape == (275, 5)
    centred = torch.zeros(9)
    centred[4] = 1
    np.testing.assert_array_equal(periodic_operator([centred], 1), np.tile([0, 1, 0], (4, 1)))


def test_stages_that_leak_past_the_padding_are_refused() -> None:
    with pytest.raises(CheckpointError, match="unlike the others, expected all alike; use factors of at least 2"):
        periodic_operator(_kernels((1, 1, 1, 1, 3)), 1)


def test_a_damaged_hop_length_is_refused_before_it_fills_the_memory() -> None:
    with pytest.raises(CheckpointError, match="found 1000000000 samples a frame, expected at most 8192"):
        periodic_operator([torch.zeros(2001)] * 3, 2)
