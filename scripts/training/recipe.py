"""What a voice is trained to be and how: the recipe's numbers, by name."""

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
"""4,096 classes, beyond every family's."""


class RecipeError(ValueError):
    """An option that has to change; the message has what was found and what was expected."""


@dataclass(frozen=True)
class Recipe:
    """Sizes of the network and how it is trained; the defaults are for a voice like the one that ships."""

    conditioning_size: int = 64
    """Units of the bidirectional GRU over the mel, each way."""
    embedding_dim: int = 64
    """Columns of the label embedding."""
    rnn_size: int = 256
    """Units of the GRU that runs once a sample."""
    fc_size: int = 192
    """Units of the layer between the GRU and the logits."""
    bits: int = 8
    """Bits of a mu-law label."""
    rows: int = 128
    """Recordings walked through at the same time."""
    frames: int = 2
    """Mel frames in a step's window; gradients reach back this far, the state further."""
    context: int = 60
    """Frames on each side of the window that the conditioning GRU also sees. In synthesis it sees all, and has to have
    learnt what it becomes after a second of speech: a voice trained with 16 lost 0.03 bits there."""
    learning_rate: float = 2e-3
    """At its highest, after the warm-up; a cosine takes it to zero at the end of the budget. An update at 2e-3 took
    three times as much off lj-small's loss on kept-out clips as one at 5e-4."""
    warm_up: float = 0.06
    """Share of the budget during which the learning rate rises."""
    weight_decay: float = 0.01
    """AdamW's."""
    clip_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    ema_decay: float = 0.998
    """Of the average over updates of the weights, which is what is validated and saved."""
    variants: int = 11
    """Copies of each recording, altered in speed, pitch and level, so that few minutes of speech are not learnt by
    heart."""
    variant_share: float = 0.5
    """How much of what is walked through is such copies. With a quarter, lj-small began to learn its 178 s by heart
    after 40 million samples at the rate above: the loss in training went on falling, that on others stood still."""
    validate_every: int = 200
    """Updates between validations, each of which also saves."""
    samples_every: int = 2
    """Validations between samples and pictures of the kept-out clips; 0 is none, and takes no matplotlib."""
    minutes: float = 90.0
    """Budget of the training, without what reading and features take; the learning rate reaches zero at its end."""
    max_updates: int | None = None
    """Ends the training, and its schedule, earlier where that comes first."""
    seed: int = 0
    """Of the first weights, of the copies and of the order."""

    def __post_init__(self) -> None:
        """Refuses numbers that nothing can be trained with."""
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name}: found {value}, expected a positive integer")
        for name in ("minutes", "learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected a positive number")
        for name in ("variants", "context", "samples_every", "seed"):
            if not 0 <= getattr(self, name) < 2**62:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected an integer from 0 on")
        for name in ("variant_share", "ema_decay", "weight_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name}: found {getattr(self, name)}, expected at least 0 and below 1")
        if not 0 < self.warm_up < 1:
            raise RecipeError(f"warm_up: found {self.warm_up}, expected a number between 0 and 1")
        if self.bits > MOST_BITS:
            raise RecipeError(f"bits: found {self.bits}, expected at most {MOST_BITS}")


RECIPES = {
    "lj-small": Recipe(),
    "lj-896": Recipe(
        conditioning_size=128,
        embedding_dim=256,
        rnn_size=896,
        fc_size=1024,
        bits=10,
        rows=256,
        frames=4,
        learning_rate=1e-3,
        variants=23,
        variant_share=0.6,
        validate_every=250,
        samples_every=8,
        minutes=8.0,
    ),
}
"""``lj-small`` decodes in about real time on a core and is trained on a CPU; ``lj-896`` has univoc's sizes and takes a
GPU."""


def meanings() -> dict[str, str]:
    """Each field's docstring on one line, for ``--help``: Python itself does not keep them."""
    (definition,) = ast.parse(inspect.getsource(Recipe)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in itertools.pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found
