"""The training's GRU against PyTorch's, forward and backward, and the trained network against the exported one."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.scripts.training.corpus import AUDIO, Windows
from wavernn_trt.scripts.training.gru import gru_over_labels
from wavernn_trt.scripts.training.model import TrainingModel
from wavernn_trt.scripts.training.recipe import Recipe

SMALL = Recipe(conditioning_size=3, embedding_dim=5, rnn_size=17, fc_size=9, bits=4)


def some_windows(rows: int, frames: int) -> Windows:
    labels = torch.randint(0, 16, (frames * AUDIO.hop_length + 1, rows))
    mel = torch.rand(rows, frames + 4, AUDIO.n_mels)
    return Windows(mel, torch.arange(2, 2 + frames).expand(rows, frames), labels[:-1], labels[1:])


def gradients(model: TrainingModel, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (logits.square().mean() + logits[-1].sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]


@pytest.mark.parametrize(("rows", "frames"), [(1, 1), (3, 2)])
def test_outputs_and_gradients_on_the_cpu_are_those_of_pytorch_s_gru(
    rows: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = TrainingModel(SMALL).double()
    windows, hidden = some_windows(rows, frames), torch.randn(rows, 17, dtype=torch.float64)
    windows = dataclasses.replace(windows, mel=windows.mel.double())
    logits, last = model(windows, hidden)
    found = gradients(model, logits)
    monkeypatch.setattr(TrainingModel, "_on_cpu", TrainingModel._on_gpu)
    expected, last_expected = model(windows, hidden)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last, last_expected)
    for name, gradient in gradients(model, expected).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([[0, 2], [1, 1], [2, 0], [2, 2]])
    shapes = ((3, 12), (2, 2, 12), (2, 4), (12, 4), (12,))
    table, conditioning, hidden, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    assert torch.autograd.gradcheck(
        lambda *tensors: gru_over_labels(tensors[0], labels, *tensors[1:]), (table, conditioning, hidden, weight, bias)
    )


def test_carried_state_makes_pieces_equal_to_the_whole() -> None:
    torch.manual_seed(0)
    model, windows, hop = TrainingModel(SMALL), some_windows(2, 4), AUDIO.hop_length
    whole, _ = model(windows, torch.zeros(2, 17))
    first = Windows(windows.mel, windows.frames[:, :1], windows.previous[:hop], windows.labels[:hop])
    second = Windows(windows.mel, windows.frames[:, 1:], windows.previous[hop:], windows.labels[hop:])
    before, state = model(first, torch.zeros(2, 17))
    after, _ = model(second, state)
    torch.testing.assert_close(torch.cat([before, after]), whole)


def test_the_trained_network_computes_the_same_as_the_exported_family() -> None:
    torch.manual_seed(0)
    model, windows = TrainingModel(SMALL), some_windows(2, 2)
    exported = univoc_from_state(model.state_dict())
    rows = exported.conditioner(windows.mel.transpose(1, 2))
    hidden = torch.zeros(1, 2, 17)
    logits = []
    for t, previous in enumerate(windows.previous):
        row = rows[torch.arange(2), windows.frames[:, t // AUDIO.hop_length]]
        output, hidden = exported.step(previous, hidden, row)
        logits.append(output)
    torch.testing.assert_close(model(windows, torch.zeros(2, 17))[0], torch.stack(logits), rtol=1e-4, atol=1e-6)
