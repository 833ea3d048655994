"""G-Wang, geneing, UniversalVocoding and torchaudio: other features, loops or networks."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from running import (
    AUX,
    BLOCKS,
    COMPUTE,
    FC,
    FIRST,
    FRAMES,
    OPTIMIZER,
    RNN,
    STATE,
    Array,
    Outputs,
    Recorder,
    arguments,
    give_weights,
    labels_of,
    load_file,
    padded,
    plain,
    project,
    recording,
    run_forced,
    stand_in,
    values_of,
)
from torch import nn

LWS_CHECKPOINT = {"state_dict": STATE, "optimizer": OPTIMIZER, "global_step": 112000, "global_epoch": 110}


def _small(hp: Any) -> None:
    hp.rnn_dims, hp.fc_dims, hp.compute_dims, hp.res_out_dims, hp.res_blocks = RNN, FC, COMPUTE, AUX, BLOCKS


def _modules_again(*names: str) -> list[ModuleType]:
    """Imports modules that read their settings while they are imported."""
    for name in names:
        sys.modules.pop(name, None)
    return [importlib.import_module(name) for name in names]


def _distribution_run(model: Any, mel: Array, hp: Any, generate: Callable[..., Any]) -> dict[str, Any]:
    """Generation of a network with two outputs; what is drawn is noted at the rows that are stored."""
    recorder = Recorder(model, values_of(FRAMES * hp.hop_size))
    with recorder.forcing(), torch.no_grad():
        waveform = generate(torch.from_numpy(np.ascontiguousarray(mel, dtype=np.float32))[None])
    return {"model": model, **recorder.outputs(), "waveform": np.asarray(waveform)}


@project
def gwang(root: Path) -> Outputs:
    """G-Wang/WaveRNN-Pytorch: every input type. Its loops add no zero frames to the mel: they are given them."""
    from hparams import hparams as hp

    _small(hp)
    audio, utils = importlib.import_module("audio"), importlib.import_module("utils")
    wave = recording(hp.sample_rate)
    features = audio.melspectrogram(wave).astype(np.float32)
    mel = features[:, FIRST : FIRST + FRAMES]
    for name, changes in {
        "9bit": {"input_type": "bits", "bits": 9},
        "10bit": {"input_type": "bits", "bits": 10},
        "mulaw": {"input_type": "mulaw"},
        "mixture": {"input_type": "mixture"},
        "gaussian": {"input_type": "raw", "distribution": "gaussian"},
        "beta": {"input_type": "raw", "distribution": "beta"},
    }.items():
        for key, value in changes.items():
            setattr(hp, key, value)
        _, module = _modules_again("distributions", "model")
        model = module.build_model()
        give_weights(model, 3)
        values: dict[str, Any] = {"mel": mel, "checkpoint": LWS_CHECKPOINT, "file": "checkpoint_step000112000.pth"}
        settings = "".join(f"    {key} = {value!r}\n" for key, value in plain(hp).items())
        values["settings"] = {"hparams.py": f"class hparams:\n{settings}"}
        one = name in ("gaussian", "beta")  # batch_generate draws from a beta distribution either way
        loop = (lambda m, n=model: n.generate(padded(m[0].numpy()))) if one else (
            lambda m, n=model: n.batch_generate(padded(m[0].numpy())[None])
        )  # fmt: skip
        if one:
            values |= _distribution_run(model, mel, hp, loop)
            values |= _drawn(module, values["logits"], name)
        else:
            values |= run_forced(module, model, mel, hp.hop_size, loop)
        values["waveform"] = values["waveform"].reshape(-1)
        if name == "9bit":
            values |= {"recording": wave, "features": features, "labels": audio.quantize(wave)}
        elif name == "mulaw":
            values |= {"recording": wave, "labels": utils.mulaw_quantize(wave, hp.mulaw_quantize_channels)}
        yield f"gwang-{name}", values


def _drawn(module: Any, logits: Array, name: str) -> dict[str, Any]:
    """What the project's sampler makes of given deviates (Gaussian), or of the mean (beta), for the stored outputs."""
    outputs = torch.from_numpy(logits)[:, None]
    deviates = np.random.default_rng(5).normal(size=len(logits)).astype(np.float32)
    if name == "beta":
        distribution = torch.distributions.Beta
        sample = distribution.sample
        distribution.sample = lambda this: this.mean
        drawn = module.sample_from_beta_dist(outputs)
        distribution.sample = sample
        return {"drawn_value": drawn.numpy().reshape(-1)}
    normal = torch.normal
    torch.normal = lambda mean, std: mean + std * torch.from_numpy(deviates).reshape(mean.shape)
    drawn = module.sample_from_gaussian(outputs)
    torch.normal = normal
    return {"drawn_deviate": deviates, "drawn_value": drawn.numpy().reshape(-1)}


@project
def geneing(root: Path) -> Outputs:
    """geneing/WaveRNN-Pytorch: one recurrent layer."""

    class HParams:
        def __init__(self, **settings: Any) -> None:
            vars(self).update(settings)

    stand_in("tensorflow", contrib=SimpleNamespace(training=SimpleNamespace(HParams=HParams)))
    from hparams import hparams as hp

    _small(hp)
    audio, utils = importlib.import_module("audio"), importlib.import_module("utils")
    wave = recording(hp.sample_rate)
    features = audio.melspectrogram(wave).astype(np.float32)
    mel = features[:, FIRST : FIRST + FRAMES]
    for name, changes in {
        "10bit": {"input_type": "bits"},
        "mulaw": {"input_type": "mulaw"},
        "mixture": {"input_type": "mixture"},
    }.items():
        for key, value in changes.items():
            setattr(hp, key, value)
        _, module = _modules_again("distributions", "model")
        model = module.build_model()
        give_weights(model, 4, 4.0)
        settings = {key: value for key, value in plain(hp).items() if key not in ("seq_len", "noam_warm_up_steps")}
        text = "import tensorflow as tf\n\n" + arguments("tf.contrib.training.HParams", settings)
        text += "\nhparams.seq_len = hparams.seq_len_factor * hparams.hop_size\n"
        values: dict[str, Any] = {"mel": mel, "checkpoint": LWS_CHECKPOINT, "file": "checkpoint_step000400000.pth"}
        values["settings"] = {"hparams.py": text}
        # generate() cannot feed a mixture's sample back (three axes); batch_generate() can, and adds no zero frames.
        loop = (lambda m, n=model: n.batch_generate(padded(m[0].numpy())[None])) if name == "mixture" else (
            lambda m, n=model: n.generate(m[0].numpy(), batched=False)
        )  # fmt: skip
        values |= run_forced(module, model, mel, hp.hop_size, loop)
        if name == "10bit":
            values |= {"recording": wave, "features": features, "labels": audio.quantize(wave)}
        elif name == "mulaw":
            values |= {"recording": wave, "labels": utils.mulaw_quantize(wave, hp.mulaw_quantize_channels)}
        yield f"geneing-{name}", values


def _univoc_run(model: Any, mel: Array, hop: int, generate: Callable[..., Any]) -> dict[str, Any]:
    recorder = Recorder(model, labels_of(model.fc2.out_features, FRAMES * hop))
    with recorder.forcing(), torch.no_grad():
        waveform = generate(torch.from_numpy(np.ascontiguousarray(mel.T))[None])
    return {"model": model, "mel": mel, **recorder.outputs(), "waveform": np.asarray(waveform)}


@project
def univoc_0_1(root: Path) -> Outputs:
    """bshall/UniversalVocoding at tag v0.1 (config.json)."""
    module, utils = importlib.import_module("model"), importlib.import_module("utils")
    config = json.loads((root / "config.json").read_text())
    config["vocoder"] |= {"conditioning_channels": 8, "embedding_dim": 8, "rnn_channels": RNN, "fc_channels": FC}
    audio, sizes = config["preprocessing"], config["vocoder"]
    wave = recording(audio["sample_rate"])
    loud = wave / np.abs(wave).max() * 0.999  # as generate.py does
    names = ("sample_rate", "preemph", "num_mels", "num_fft", "min_level_db", "hop_length", "win_length", "fmin")
    features = utils.melspectrogram(loud, **{name: audio[name] for name in names}).T.astype(np.float32)
    model = module.Vocoder(
        mel_channels=audio["num_mels"],
        conditioning_channels=sizes["conditioning_channels"],
        embedding_dim=sizes["embedding_dim"],
        rnn_channels=RNN,
        fc_channels=FC,
        bits=audio["bits"],
        hop_length=audio["hop_length"],
    )
    give_weights(model, 8, 0.3)
    mel = features[:, FIRST : FIRST + FRAMES]
    yield (
        "univoc-0.1",
        {
            "recording": wave,
            "features": features,
            "labels": utils.mulaw_encode(loud, mu=2 ** audio["bits"]),
            "checkpoint": {"model": STATE, "optimizer": OPTIMIZER, "scheduler": {}, "step": 100000},
            "file": "model.ckpt-100000.pt",
            "settings": {"config.json": json.dumps(config, indent=4)},
            **_univoc_run(model, mel, audio["hop_length"], model.generate),
        },
    )


@project
def univoc_0_2(root: Path) -> Outputs:
    """bshall/UniversalVocoding at tag v0.2 (config.yaml)."""
    import yaml

    stand_in("hydra", main=lambda **options: lambda function: function)
    stand_in("hydra.utils")
    sys.modules["hydra"].utils = sys.modules["hydra.utils"]
    stand_in("pyloudnorm")
    stand_in("omegaconf", OmegaConf=None)
    stand_in("importlib_resources")
    preprocess, module = importlib.import_module("preprocess"), importlib.import_module("univoc.model")
    config = yaml.safe_load((root / "univoc/config/config.yaml").read_text())
    config["model"] |= {"conditioning_size": 8, "embedding_dim": 8, "rnn_size": RNN, "fc_size": FC}
    audio, sizes = config["preprocess"], config["model"]
    bits = audio["mulaw"]["bits"]
    wave = recording(audio["sr"])
    names = ("sr", "hop_length", "win_length", "n_fft", "n_mels", "fmin", "preemph", "top_db")
    features = preprocess.melspectrogram(wave, **{name: audio[name] for name in names}).astype(np.float32)
    small = {name: sizes[name] for name in ("conditioning_size", "embedding_dim", "rnn_size", "fc_size")}
    given = {"n_mels": audio["n_mels"], "hop_length": audio["hop_length"], "bits": bits, "sr": audio["sr"]}
    model = module.Vocoder(**given, **small)
    give_weights(model, 9, 0.3)
    mel = features[:, FIRST : FIRST + FRAMES]
    yield (
        "univoc-0.2",
        {
            "recording": wave,
            "features": features,
            "labels": preprocess.mu_compress(wave, audio["hop_length"], audio["win_length"], bits),
            "checkpoint": {"model": STATE, "optimizer": OPTIMIZER, "scheduler": {}, "scaler": {}, "step": 150000},
            "file": "model-150000.pt",
            "settings": {"config.yaml": "# @package _group_\n" + yaml.safe_dump(config, sort_keys=False)},
            **_univoc_run(model, mel, audio["hop_length"], lambda m: model.generate(m)[0]),
        },
    )


@project
def torchaudio(root: Path) -> Outputs:
    """torchaudio's text-to-speech pipeline; PATH is the site-packages folder with its package."""
    folder = root / "torchaudio"
    functional, utils, impl = _torchaudio_modules(folder)
    network = load_file(folder / "models" / "wavernn.py")
    params = {**utils._get_wrnn_params(), "n_res_block": BLOCKS, "n_rnn": RNN, "n_fc": FC}
    params |= {"n_hidden": COMPUTE, "n_output": AUX}
    model = network.WaveRNN(**params).eval()
    give_weights(model, 10, 0.3)
    wave = recording(22050)
    natural = np.log(np.maximum(_torchaudio_mel(functional, wave), 1e-5)).astype(np.float32)
    recorder = Recorder(model, labels_of(256, FRAMES * 275))
    vocoder = impl._WaveRNNVocoder(model)
    given: list[Array] = []
    infer = model.infer

    def noted(mel: Any, lengths: Any) -> Any:
        given.append(mel.numpy()[0])
        return infer(mel, lengths)

    model.infer = noted
    with recorder.forcing(), torch.no_grad():
        vocoder(torch.from_numpy(natural[:, FIRST : FIRST + FRAMES])[None])
        decoded = functional.mu_law_decoding(torch.from_numpy(recorder.samples), 256)
    yield (
        "torchaudio-ljspeech",
        {
            "recording": wave,
            "natural": natural,
            "mel": given[0],
            "checkpoint": STATE,
            "file": "wavernn_10k_epochs_8bits_ljspeech.pth",
            "settings": {"params.json": json.dumps(params)},
            "model": model,
            **recorder.outputs(),
            "waveform": decoded.numpy(),
        },
    )


def _torchaudio_modules(folder: Path) -> tuple[Any, Any, Any]:
    """Its functions, its pipeline's utilities and its pipeline; the native library is not loaded."""
    for name in ("torchaudio", "torchaudio.pipelines", "torchaudio.pipelines._tts", "torchaudio.functional"):
        stand_in(name)
        sys.modules[name].__path__ = [str(folder.parent / name.replace(".", "/"))]
    stand_in("torchaudio._extension", fail_if_no_align=None, _IS_TORCHAUDIO_EXT_AVAILABLE=False)
    stand_in("torchaudio._internal", download_url_to_file=None, load_state_dict_from_url=None)
    sys.modules["torchaudio._internal"].module_utils = SimpleNamespace(
        dropping_support=lambda function: function, is_module_available=lambda *names: False
    )
    stand_in("torchaudio._internal.module_utils", dropping_support=lambda function: function)
    functional = importlib.import_module("torchaudio.functional.functional")
    sys.modules["torchaudio.functional"].mu_law_decoding = functional.mu_law_decoding
    stand_in("torchaudio.models", Tacotron2=nn.Module, WaveRNN=nn.Module)
    stand_in("torchaudio.transforms", GriffinLim=None, InverseMelScale=None)
    names = ("torchaudio.pipelines._tts.utils", "torchaudio.pipelines._tts.impl")
    utils, impl = (importlib.import_module(name) for name in names)
    return functional, utils, impl


def _torchaudio_mel(functional: Any, wave: Array) -> Array:
    """Mel magnitudes with the settings of its examples, by the functions that its transforms call."""
    window = torch.hann_window(1100)
    spectrum = functional.spectrogram(torch.from_numpy(wave), 0, window, 2048, 275, 1100, 1.0, False)
    filters = functional.melscale_fbanks(1025, 40.0, 11025.0, 80, 22050, norm="slaney", mel_scale="slaney")
    mel: Array = (filters.T @ spectrum).numpy()
    return mel
