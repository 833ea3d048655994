"""Recipes: the sizes and hyperparameters of a training, with their help texts."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
from dataclasses import dataclass

_POSITIVE = (
    "conditioning_size",
    "embedding_dim",
    "rnn_size",
    "fc_size",
    "bits",
    "rows",
    "frames",
    "validate_every",
    "max_updates",
)
MOST_BITS = 12
"""4,096 classes; no supported family has more."""


class RecipeError(ValueError):
    """An invalid option, checkpoint or training; the message has what was found and what was expected."""


@dataclass(frozen=True)
class Recipe:
    """Sizes and hyperparameters; the defaults are those of the shipped voice."""

    conditioning_size: int = 96
    """Units of the bidirectional GRU over the mel, per direction."""
    embedding_dim: int = 64
    """Size of the label embedding."""
    rnn_size: int = 384
    """Units of the decoder's GRU, which runs once per sample."""
    fc_size: int = 256
    """Units of the layer between the GRU and the logits."""
    bits: int = 8
    """Bits of a mu-law label."""
    rows: int = 128
    """Batch size: recordings processed in parallel, by all processes together."""
    frames: int = 2
    """Mel frames in a window; backpropagation is truncated to it, while the state continues."""
    context: int = 60
    """Frames on each side of a window that the conditioning GRU also sees. In synthesis it sees the whole mel, so that
    the context has to be long: with 16 frames, the loss in synthesis is 0.03 bits higher."""
    learning_rate: float = 2e-3
    """Peak learning rate, reached after the warm-up; it falls to zero at the end of the budget, along a cosine. For
    lj-small, 2e-3 reduces the validation loss three times as fast as 5e-4."""
    warm_up: float = 0.06
    """Share of the budget in which the learning rate rises."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; a larger one is scaled down."""
    ema_decay: float = 0.998
    """Decay of the moving average of the weights, which is validated and saved."""
    variant_minutes: float = 30.0
    """Length of copies of each folder's recordings with changed speed, pitch and level, against overfitting on few
    minutes of speech; 0 makes none."""
    variant_share: float = 0.5
    """Share of these copies in a folder's training data. With 0.25, lj-small overfits its 178 s of speech after 40
    million samples: the training loss falls further, the validation loss does not."""
    validate_every: int = 200
    """Updates between validations; each also saves the checkpoints."""
    samples_every: int = 2
    """Validations between samples and spectrograms of the kept-out clips; 0 writes none, and needs no matplotlib."""
    minutes: float = 90.0
    """Time budget, without reading the recordings; the learning rate reaches zero at its end."""
    max_updates: int | None = None
    """Budget in updates, if it is used up before the time."""
    seed: int = 0
    """Random seed of the initial weights, the copies and the order."""

    def __post_init__(self) -> None:
        """Raises a RecipeError for values out of range."""
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name}: found {value}, expected a positive integer")
        for name in ("minutes", "learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected a positive number")
        for name in ("context", "samples_every", "seed"):
            if not 0 <= getattr(self, name) < 2**62:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected an integer from 0 on")
        if not 0 <= self.variant_minutes < math.inf:
            raise RecipeError(f"variant_minutes: found {self.variant_minutes}, expected a number from 0 on")
        for name in ("variant_share", "ema_decay", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected at least 0 and below 1")
        if not 0 < self.warm_up < 1:
            raise RecipeError(f"warm_up: found {self.warm_up}, expected a number between 0 and 1")
        if self.bits > MOST_BITS:
            raise RecipeError(f"bits: found {self.bits}, expected at most {MOST_BITS}")


RECIPES = {
    "heart-lj": Recipe(),
    "lj-small": Recipe(conditioning_size=64, rnn_size=256, fc_size=192),
    "lj-896": Recipe(
        conditioning_size=128,
        embedding_dim=256,
        rnn_size=896,
        fc_size=1024,
        bits=10,
        rows=256,
        frames=4,
        learning_rate=1e-3,
        variant_minutes=70.0,
        variant_share=0.6,
        validate_every=250,
        samples_every=8,
        minutes=8.0,
    ),
}
"""``heart-lj`` has the sizes of the shipped voice, ``lj-small`` decodes in half its time, and both are trained on CPUs;
``lj-896`` has univoc's sizes and needs a GPU."""


def meanings() -> dict[str, str]:
    """Returns each field's docstring as one line, for ``--help``. Read from the source: Python drops them."""
    (definition,) = ast.parse(inspect.getsource(Recipe)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in itertools.pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found
