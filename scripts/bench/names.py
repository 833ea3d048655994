"""What can be asked for by name; imports nothing, so that the command line can be read before numpy is loaded."""

from __future__ import annotations

ON_CPU = ("onnxruntime", "torch")
BACKENDS = (*ON_CPU, "tensorrt", "tensorrt-rtx", "cuda")
"""Every backend of the registry but ``auto``."""
PEERS = ("loop", "cuda-graphs", "univoc", "torchaudio")
"""What backends are compared with."""
SUBJECTS = {"loop": "pytorch loop", "cuda-graphs": "pytorch graphs", "univoc": "univoc", "torchaudio": "torchaudio"}
"""How the table calls each peer."""
SCENARIOS = ("speed", "batch", "stream", "mixed")
