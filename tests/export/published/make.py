"""Computes the stored outputs in this folder again, with each project's own code from a local checkout.

    python tests/export/published/make.py PROJECT --checkout PATH

README.md lists the projects and their commits. The project's code is imported from PATH; what stands in the way of
running it on a CPU with today's libraries is replaced in memory (`running.old_libraries`), never its arithmetic.
Nothing is downloaded. The weights are random, of few distinct values and half of them zero: the files stay small.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import fatchord_forks  # noqa: F401, registers its projects
import other_networks  # noqa: F401
import torch
from running import PROJECTS, old_libraries, save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", choices=sorted(PROJECTS))
    parser.add_argument("--checkout", type=Path, required=True, help="folder of the project's files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    old_libraries()
    sys.path.insert(0, str(options.checkout.resolve()))
    for name, values in PROJECTS[options.project](options.checkout.resolve()):
        save(name, values)


if __name__ == "__main__":
    main()
