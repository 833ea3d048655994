"""The families' own modules, to compare with. Nothing of them is part of this package.

They come from::

    pip install --no-deps torchaudio==2.11.0 coqui-tts==0.27.2 univoc==0.2.1 coqpit-config==0.2.5

``--no-deps``, because together they would bring several gigabytes that these tests do not run. One file of each is
loaded by its path, so that no package's ``__init__`` runs (torchaudio's loads a native library tied to one torch
release, Coqui's imports its trainer). What such a file imports besides torch, numpy, librosa and tqdm, and does not
need for a model's ``forward``, is replaced by an empty stand-in while the file loads:

* univoc: ``importlib_resources``, ``omegaconf`` (both for downloading weights only)
* Coqui: its audio processor, data set, losses and plots; its base class, whose one role here is to hold the config
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch import nn


def torchaudio_wavernn() -> Any:
    """torchaudio's ``WaveRNN`` class."""
    return _load("torchaudio", "models/wavernn.py", {}).WaveRNN


def univoc_vocoder() -> Any:
    """univoc's ``Vocoder`` class."""
    stand_ins = {"importlib_resources": {}, "omegaconf": {"OmegaConf": None}}
    return _load("univoc", "model.py", stand_ins).Vocoder


def coqui_wavernn(hop_length: int, **arguments: Any) -> nn.Module:
    """A Coqui ``Wavernn`` with these ``model_args``."""
    if importlib.util.find_spec("coqpit") is None:
        pytest.skip("needs coqpit-config (pip install coqpit-config==0.2.5)")
    upsample = _load("TTS", "vocoder/layers/upsample.py", {})
    distribution = _load("TTS", "vocoder/utils/distribution.py", {})
    stand_ins: dict[str, dict[str, Any]] = {
        "TTS.tts.utils.visual": {"plot_spectrogram": None},
        "TTS.utils.audio": {"AudioProcessor": lambda **settings: None},
        "TTS.utils.audio.numpy_transforms": {"mulaw_decode": None},
        "TTS.vocoder.datasets.wavernn_dataset": {"WaveRNNDataset": None},
        "TTS.vocoder.layers.losses": {"WaveRNNLoss": None},
        "TTS.vocoder.layers.upsample": vars(upsample),
        "TTS.vocoder.models.base_vocoder": {"BaseVocoder": _CoquiBase},
        "TTS.vocoder.utils.distribution": vars(distribution),
    }
    module = _load("TTS", "vocoder/models/wavernn.py", stand_ins)
    audio = SimpleNamespace(hop_length=hop_length, to_dict=dict)
    model: nn.Module = module.Wavernn(SimpleNamespace(model_args=module.WavernnArgs(**arguments), audio=audio))
    return model


def coqui_keys() -> dict[str, set[str]]:
    """The keys of Coqui's WaveRNN settings: in ``audio`` and at the ``top``, without the trainer's own."""
    coqpit = pytest.importorskip("coqpit", reason="needs coqpit-config (pip install coqpit-config==0.2.5)")
    shared = _load("TTS", "config/shared_configs.py", {"trainer": {"TrainerConfig": coqpit.Coqpit}})
    vocoder = _load("TTS", "vocoder/configs/shared_configs.py", {"TTS.config": vars(shared)})
    stand_ins = {
        "TTS.vocoder.configs.shared_configs": vars(vocoder),
        "TTS.vocoder.models.wavernn": {"WavernnArgs": dict},
    }
    wavernn = _load("TTS", "vocoder/configs/wavernn_config.py", stand_ins)
    return {
        "audio": {field.name for field in dataclasses.fields(shared.BaseAudioConfig)},
        "top": {field.name for field in dataclasses.fields(wavernn.WavernnConfig)},
    }


class _CoquiBase(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.args = config.model_args


def _load(package: str, path: str, stand_ins: Mapping[str, Mapping[str, Any]]) -> ModuleType:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"needs {package} to compare with (tests/upstream.py says how to install it)")
    file = Path(next(iter(found.submodule_search_locations))) / path
    name = f"upstream_{package}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _modules({**stand_ins, name: {}}):
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@contextmanager
def _modules(stand_ins: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    names = {name.rsplit(".", depth)[0] for name in stand_ins for depth in range(name.count(".") + 1)}
    before = {name: sys.modules.get(name) for name in names}
    try:
        for name in names:
            module = ModuleType(name)
            module.__path__ = []
            vars(module).update({key: value for key, value in stand_ins.get(name, {}).items() if key[:2] != "__"})
            sys.modules[name] = module
        yield
    finally:
        for name, module_before in before.items():
            if module_before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module_before
