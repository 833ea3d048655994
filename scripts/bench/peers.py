"""Opens the peers of a run: the requested ones, or all that suit the model and the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.model_directory import open_model_directory
from wavernn_trt.export.operators import Precision
from wavernn_trt.scripts.bench.backends import (
    NO_TORCH,
    InapplicableError,
    UnavailableError,
    has_torch,
    require_cuda_torch,
)
from wavernn_trt.scripts.bench.openvino_peer import OpenVinoPeer
from wavernn_trt.scripts.bench.timing import SUBJECTS, Peer

_FAMILIES = {"univoc": ("univoc",), "torchaudio": ("torchaudio", "fatchord")}


def open_peers(
    path: Path,
    names: Sequence[str] | None,
    batches: Sequence[int],
    missing: dict[str, str],
    *,
    threads: int,
    precision: Precision | None,
    on_gpu: bool,
) -> list[Peer]:
    """Opens the peers.

    Args:
        path: the model directory.
        names: some of `SUBJECTS`. ``None`` is all; those that do not suit the model or machine are then omitted from
            ``missing``.
        batches: the measured batches.
        missing: receives the peers that are not available, with the reason.
        threads: of peers on the CPU.
        precision: of CUDA graphs; fp16 by default.
        on_gpu: whether a backend on a GPU is measured; peers then run there too, if PyTorch finds it.

    Raises:
        PeerError: a peer's results differ from the model's.
    """
    peers: list[Peer] = []
    for name in SUBJECTS if names is None else names:
        try:
            peers.append(_open(name, path, threads, precision, on_gpu=on_gpu))
        except InapplicableError as error:
            if names is not None:
                missing[SUBJECTS[name]] = str(error)
        except UnavailableError as error:
            missing[SUBJECTS[name]] = str(error)
    for peer in peers:
        if peer.only is not None and set(batches) != {peer.only}:
            missing[f"{peer.subject}, other batches"] = f"not measured: it generates {peer.only} stream at a time"
    return [peer for peer in peers if peer.only is None or peer.only in batches]


def _open(name: str, path: Path, threads: int, precision: Precision | None, *, on_gpu: bool) -> Peer:
    _check_suits(name, open_model_directory(path).model, on_gpu=on_gpu)
    if name == "openvino":
        return OpenVinoPeer(path, threads)
    if not has_torch():
        raise UnavailableError(NO_TORCH)
    # Imported here because these modules import torch.
    from wavernn_trt.scripts.bench.pytorch_peers import TYPES, CudaGraphsPeer, PlainLoopPeer
    from wavernn_trt.scripts.bench.upstream_peers import TorchaudioPeer, UnivocPeer

    if name == "cuda-graphs":
        require_cuda_torch()
        return CudaGraphsPeer(path, precision if precision in TYPES else "fp16")
    kinds: dict[str, Callable[..., Peer]] = {"loop": PlainLoopPeer, "univoc": UnivocPeer, "torchaudio": TorchaudioPeer}
    return kinds[name](path, threads, "cuda" if on_gpu and _finds_gpu() else "cpu")


def _check_suits(name: str, model: ModelConfig, *, on_gpu: bool) -> None:
    """Raises `InapplicableError` if a peer does not support the model or the machine."""
    families = _FAMILIES.get(name)
    if families is not None and model.family not in families:
        raise InapplicableError(f"not measured: it generates {' and '.join(families)} models, this is {model.family}")
    if name in ("cuda-graphs", "torchaudio") and model.output != "categorical":
        raise InapplicableError(f"not measured: it draws classes, this model has a {model.output}")
    if name == "cuda-graphs" and not on_gpu and not _finds_gpu():
        raise InapplicableError("not measured: PyTorch finds no GPU")


def _finds_gpu() -> bool:
    try:
        require_cuda_torch()
    except UnavailableError:
        return False
    return True
