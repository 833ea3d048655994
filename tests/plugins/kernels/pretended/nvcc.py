"""Replacement of nvcc for the pretended driver: its cubins contain only the names of what was compiled."""

from __future__ import annotations

import sys
from pathlib import Path


def main(words: list[str]) -> None:
    if words == ["--version"]:
        print("Cuda compilation tools, release 13.0, V13.0.0")
        return
    (source,) = (Path(word).stem for word in words if word.endswith(".cu"))
    (number,) = (word.partition("=")[2] for word in words if word.startswith("-DWAVERNN_NUMBER="))
    (target,) = (word.partition("=")[2] for word in words if word.startswith("-arch="))
    Path(words[words.index("-o") + 1]).write_text(f"pretended {source} {number} {target}")
    for tile in (1, 4, 8):
        print(f"ptxas info    : Compiling entry function '{source}_{tile}' for '{target}'")
        print("    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads")
        print("ptxas info    : Used 40 registers, used 1 barriers")


main(sys.argv[1:])
