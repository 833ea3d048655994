"""Updates of the weights: the optimizer, its learning rate, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wavernn_trt.scripts.training.corpus import Windows
from wavernn_trt.scripts.training.model import TrainingModel, bits_a_sample
from wavernn_trt.scripts.training.processes import Processes
from wavernn_trt.scripts.training.recipe import Recipe


def progress(updates: int, seconds: float, recipe: Recipe) -> float:
    """Returns the used share of the budget, in updates or in time."""
    by_updates = updates / recipe.max_updates if recipe.max_updates else 0.0
    return max(seconds / (60 * recipe.minutes), by_updates)


def learning_rate_at(progress: float, recipe: Recipe) -> float:
    """Returns the learning rate after a share of the budget: a linear warm-up, then a cosine to zero."""
    return recipe.learning_rate * min(1.0, progress / recipe.warm_up) * 0.5 * (1 + math.cos(math.pi * progress))


class Training:
    """The weights, their moving average and the optimizer's state, on one device. Starts with random weights."""

    def __init__(self, recipe: Recipe, device: torch.device, processes: Processes | None = None) -> None:
        self.recipe, self.device, self._processes = recipe, device, processes or Processes()
        self.model, self.average = TrainingModel(recipe).to(device), TrainingModel(recipe).to(device)
        self.average.load_state_dict(self.model.state_dict())
        self.average.eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
        )
        # float16 on a GPU, as autocast supports no other type for cuDNN's GRU; float32 on a CPU.
        self._half = device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half)
        self._hidden = torch.zeros(recipe.rows // self._processes.count, recipe.rnn_size, device=device)
        self.updates = 0

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replaces the weights and their average."""
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)

    def update(self, windows: Windows, going_on: Tensor, learning_rate: float) -> Tensor:
        """Makes one step of the optimizer; returns bits per sample before it.

        Args:
            windows: a batch, or this process's rows of it.
            going_on: float [B], 0 where a row starts with a zero state.
            learning_rate: of this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with torch.autocast(self.device.type, torch.float16 if self._half else torch.bfloat16, enabled=self._half):
            # Not by a product: after an overflow of float16, the state to be reset is NaN.
            before = torch.where(going_on[:, None] > 0, self._hidden, 0.0)
            logits, self._hidden = self.model(windows, before)
            loss = bits_a_sample(logits, windows.labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self.optimizer)
        self._processes.average(p.grad for p in self.model.parameters() if p.grad is not None)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.updates += 1
        decay = min(self.recipe.ema_decay, self.updates / (self.updates + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return loss.detach()

    def content(self) -> dict[str, Any]:
        """Returns the state for `resume`."""
        return {
            "weights": self.model.state_dict(),
            "model": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step": self.updates,
        }

    def resume(self, content: Mapping[str, Any]) -> None:
        """Restores a saved state; rows start at other positions."""
        self.model.load_state_dict(content["weights"])
        self.average.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if content["scaler"] and self._half:
            self._scaler.load_state_dict(content["scaler"])
        self.updates = content["step"]
