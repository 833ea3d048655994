"""Decodes random models with the native decoder: sound and damaged ones, on every path, in threads.

``python native_random_shapes.py LIBRARY SECONDS [SEED]``; results are checked, and sanitizers check the rest.
"""

from __future__ import annotations

import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from native_cases import ARITHMETICS, BLOCKS, CHUNK, Arrays, Blocks, NativeCase, some_streams

from wavernn_trt.export.operators import Output, Place, SequenceShape
from wavernn_trt.plugins.cpu.decoder import ZEROS, Zeros
from wavernn_trt.plugins.cpu.library import NativeLibrary, load_library
from wavernn_trt.plugins.reference import MIXTURES

MOST_THREADS = 5


def random_shape(random: np.random.Generator) -> SequenceShape:
    """Any model that the decoder computes; small ones are as likely as those of many blocks."""
    hidden, fc, classes = (int(np.exp(random.uniform(0, np.log(most)))) for most in (150, 300, 600))
    output: Output = random.choice(["categorical", "logistic_mixture", "gaussian"])
    layers, dense, groups = (int(n) for n in random.integers(1, 3, 3))
    label_feedback = output == "categorical" and bool(random.integers(2))
    skip = not label_feedback and bool(random.integers(2))
    fc_sizes = (fc, max(1, fc - int(random.integers(9))))[:dense]
    there = (("gates_0", True), ("skip", skip), ("gates_1", layers == 2), ("fc_0", True), ("fc_1", dense == 2))
    places: list[Place] = [place for place, used in there if used]  # type: ignore[misc]
    place_groups = [tuple(group for group in range(groups) if random.integers(3)) for _ in places]
    place_groups[0] = tuple(range(groups))
    widths = {"gates_0": 3 * hidden, "skip": hidden, "gates_1": 3 * hidden, "fc_0": fc, "fc_1": fc_sizes[-1]}
    columns = (
        sum(widths[place] for place, fed in zip(places, place_groups, strict=True) if group in fed)
        for group in range(groups)
    )
    return SequenceShape(
        hidden_size=hidden,
        layers=layers,
        fc_sizes=fc_sizes,
        outputs={"categorical": 1 + classes, "logistic_mixture": 3 * MIXTURES, "gaussian": 2}[output],
        output=output,
        label_feedback=label_feedback,
        skip=skip,
        group_columns=tuple(columns),
        group_held=tuple(bool(held) for held in random.integers(0, 2, groups)),
        place_groups=tuple(place_groups),
    )


def damage(inputs: Arrays, random: np.random.Generator) -> None:
    """Puts values into a chunk, or into weights, that sound models do not have."""
    chosen = random.choice([name for name, value in inputs.items() if value.dtype == np.float32])
    values = [np.nan, np.inf, -np.inf, 3e38, 2.0] if chosen in CHUNK else [1e30, -3e38, 1e-40]
    places = random.random(inputs[chosen].shape) < 0.2
    inputs[chosen] = np.where(places, np.float32(random.choice(values)), inputs[chosen])


def check(library: NativeLibrary, random: np.random.Generator) -> None:
    """Decodes one random model on every path, and some of its streams in other threads at the same time."""
    shape = random_shape(random)
    batch = int(np.exp(random.uniform(0, np.log(40))))
    blocks: Blocks | None = random.choice([None, *BLOCKS])
    case = NativeCase(shape, random.choice(ARITHMETICS), batch, int(random.integers(1, 4)), blocks)
    # Zeros that are not skipped, as they fill up lists, times NaN are NaN: that depends on the path.
    zeros: Zeros = "skip" if blocks is None or random.integers(2) else random.choice(ZEROS)
    inputs = dict(case.inputs)
    sound = random.random() < 0.7
    if not sound:
        damage(inputs, random)
    object.__setattr__(case, "inputs", inputs)
    expected: Arrays = {}
    for path in reversed(library.paths):
        decoder = case.open(library, path, zeros)
        streams = sorted(random.choice(batch, random.integers(1, batch + 1), replace=False).tolist())
        with ThreadPoolExecutor(1) as other:
            threads = (int(threads) for threads in random.integers(1, MOST_THREADS, 2))
            chosen = some_streams(inputs, streams)
            part = other.submit(decoder.decode, chosen, threads=next(threads), logits=True)
            found = decoder.decode(inputs, threads=next(threads), logits=True)
        expected = expected or found
        for name, value in found.items():
            if sound or blocks is None:
                np.testing.assert_array_equal(value, expected[name], err_msg=f"{name} on {path}: {case}")
            kept = value[:, streams] if name == "hidden_out" else value[streams]
            np.testing.assert_array_equal(part.result()[name], kept, err_msg=f"{name} of streams {streams}: {case}")
        if shape.output == "categorical":
            assert ((found["samples"] >= 0) & (found["samples"] < shape.outputs)).all()
        elif sound:
            assert (np.abs(found["samples"]) <= 1).all()


def main() -> None:
    """Repeats until the time is over."""
    library, end = load_library(sys.argv[1]), time.monotonic() + float(sys.argv[2])
    random = np.random.default_rng(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    for i in itertools.count():
        if time.monotonic() > end:
            print(f"decoded {i} models on {', '.join(library.paths)}")
            return
        check(library, random)


if __name__ == "__main__":
    main()
