"""Deprecated name of ``python -m wavernn_trt.scripts.training.train``."""

from __future__ import annotations

import sys

from wavernn_trt.scripts.training.train import main

if __name__ == "__main__":
    print("train_voice is deprecated; use python -m wavernn_trt.scripts.training.train", file=sys.stderr)
    sys.exit(main())
