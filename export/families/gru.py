"""One step of a gated recurrent unit, written out so that graph rewriting can recognise it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GRUCell(nn.Module):
    """PyTorch's GRU cell (gates in the order reset, update, new), with its two products kept apart.

    Parameter names are those of a one-layer ``nn.GRU``, so that its state dict loads as it is.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Makes a cell with uninitialised weights; they come from a checkpoint."""
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        # What the products read, and only they: gates read the state as it is. Quantised products round here.
        self.input_operand: nn.Module = nn.Identity()
        self.hidden_operand: nn.Module = nn.Identity()

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Input [B, input_size] and hidden state [B, H] -> the new hidden state [B, H]."""
        size = self.hidden_size
        from_input = nn.functional.linear(self.input_operand(x), self.weight_ih_l0, self.bias_ih_l0)  # [B, 3H]
        from_hidden = nn.functional.linear(self.hidden_operand(hidden), self.weight_hh_l0, self.bias_hh_l0)  # [B, 3H]
        input_gates, input_new = from_input.split([2 * size, size], dim=1)
        hidden_gates, hidden_new = from_hidden.split([2 * size, size], dim=1)
        reset, update = torch.sigmoid(input_gates + hidden_gates).split([size, size], dim=1)
        new = torch.tanh(input_new + reset * hidden_new)
        following: Tensor = new + update * (hidden - new)
        return following
