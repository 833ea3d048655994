"""The peers that a run has: those asked for, or those that suit the model and the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.scripts.bench.availability import (
    NO_TORCH,
    InapplicableError,
    UnavailableError,
    has_torch,
    require_cuda_torch,
)
from wavernn_trt.scripts.bench.names import PEERS, SUBJECTS
from wavernn_trt.scripts.bench.peer import Peer

if TYPE_CHECKING:
    from wavernn_trt.scripts.bench.speed_rounds import SpeedOptions


def open_peers(options: SpeedOptions, path: Path, missing: dict[str, str], *, on_gpu: bool) -> list[Peer]:
    """Opens the peers.

    Args:
        options: which, and with how many threads. Where nobody says which, those that cannot suit the model or the
            machine are left out without a word; everything else that is missing is told.
        path: the model directory.
        missing: is told which are not there, and why.
        on_gpu: whether a backend on a GPU is measured: the peers then run there too, where PyTorch finds it.

    Raises:
        PeerError: a peer does not compute what the model does.
    """
    peers: list[Peer] = []
    for name in PEERS if options.peers is None else options.peers:
        try:
            peers.append(_open(name, options, path, on_gpu=on_gpu))
        except InapplicableError as error:
            if options.peers is not None:
                missing[SUBJECTS[name]] = str(error)
        except UnavailableError as error:
            missing[SUBJECTS[name]] = str(error)
    for peer in peers:
        if peer.only is not None and set(options.batches) != {peer.only}:
            missing[f"{peer.subject}, other batches"] = f"not measured: it generates {peer.only} stream at a time"
    return [peer for peer in peers if peer.only is None or peer.only in options.batches]


def _open(name: str, options: SpeedOptions, path: Path, *, on_gpu: bool) -> Peer:
    _suits(name, open_model_directory(path).model, on_gpu=on_gpu)
    if not has_torch():
        raise UnavailableError(NO_TORCH)
    # Imported here: each of these imports torch.
    if name == "cuda-graphs":
        require_cuda_torch()
        from wavernn_trt.scripts.bench.cuda_graphs import TYPES, CudaGraphsPeer

        return CudaGraphsPeer(path, options.precision if options.precision in TYPES else "fp16")
    opened: Callable[..., Peer]
    if name == "loop":
        from wavernn_trt.scripts.bench.plain_loop import PlainLoopPeer as opened
    elif name == "univoc":
        from wavernn_trt.scripts.bench.univoc_peer import UnivocPeer as opened
    else:
        from wavernn_trt.scripts.bench.torchaudio_peer import TorchaudioPeer as opened
    return opened(path, options.threads, "cuda" if on_gpu and _finds_gpu() else "cpu")


def _suits(name: str, model: ModelConfig, *, on_gpu: bool) -> None:
    """Raises `InapplicableError` where a peer has nothing to do with the model or the machine."""
    if name == "cuda-graphs":
        if model.output != "categorical":
            raise InapplicableError(f"not measured: it draws classes, this model has a {model.output}")
        if not on_gpu and not _finds_gpu():
            raise InapplicableError("not measured: PyTorch finds no GPU")
    families = {"univoc": ("univoc",), "torchaudio": ("torchaudio", "fatchord")}.get(name)
    if families is not None and model.family not in families:
        raise InapplicableError(f"not measured: it generates {' and '.join(families)} models, this is {model.family}")
    if name == "torchaudio" and model.output != "categorical":
        raise InapplicableError(f"not measured: it draws classes, this model has a {model.output}")


def _finds_gpu() -> bool:
    try:
        require_cuda_torch()
    except UnavailableError:
        return False
    return True
