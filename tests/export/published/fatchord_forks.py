"""fatchord/WaveRNN and projects that kept its network: Real-Time-Voice-Cloning, ForwardTacotron, erogol, mozilla."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from running import (
    AUX,
    BLOCKS,
    COMPUTE,
    FC,
    FIRST,
    FRAMES,
    NATURAL,
    OPTIMIZER,
    RNN,
    STATE,
    Outputs,
    arguments,
    give_weights,
    literals,
    load_file,
    plain,
    project,
    recording,
    run_forced,
    stand_in,
)
from torch import nn

FATCHORD_SIZES = {
    "voc_rnn_dims": RNN,
    "voc_fc_dims": FC,
    "voc_compute_dims": COMPUTE,
    "voc_res_out_dims": AUX,
    "voc_res_blocks": BLOCKS,
}


def _hparams(path: Path) -> dict[str, Any]:
    """What a project's own hparams.py sets, with small sizes; paths left out."""
    settings = {name: value for name, value in plain(load_file(path)).items() if not name.endswith("_path")}
    return {**settings, **FATCHORD_SIZES}


def _configure(hp: Any, settings: Mapping[str, Any]) -> None:
    """Gives settings to fatchord's pseudo-module, which reads a file and only once."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hparams.py").write_text(literals(settings))
        hp.configure(Path(folder) / "hparams.py")


def _network(module: Any, hp: Mapping[str, Any], hop_length: int, rate: int, loudest: float = 1.0) -> nn.Module:
    model: nn.Module = module.WaveRNN(
        rnn_dims=RNN,
        fc_dims=FC,
        bits=hp["bits"],
        pad=hp["voc_pad"],
        upsample_factors=hp["voc_upsample_factors"],
        feat_dims=hp["num_mels"],
        compute_dims=COMPUTE,
        res_out_dims=AUX,
        res_blocks=BLOCKS,
        hop_length=hop_length,
        sample_rate=rate,
        mode=hp["voc_mode"],
    )
    give_weights(model, 1, loudest)
    return model


@project
def fatchord(root: Path) -> Outputs:
    """fatchord/WaveRNN: ``voc_mode`` RAW and MOL."""
    from utils import hparams as hp

    settings = _hparams(root / "hparams.py")
    _configure(hp, settings)
    from models import fatchord_version as module
    from utils import dsp

    module.save_wav = lambda *args: None
    wave = recording(hp.sample_rate)
    features = dsp.melspectrogram(wave).astype(np.float32)
    for mode in ("RAW", "MOL"):
        settings = {**settings, "voc_mode": mode, "voc_model_id": f"ljspeech_{mode.lower()}"}
        model = _network(module, settings, hp.hop_length, hp.sample_rate)
        mel = features[:, FIRST : FIRST + FRAMES]
        run = run_forced(
            module, model, mel, hp.hop_length, lambda m, n=model: n.generate(m, "", False, 0, 0, hp.mu_law)
        )
        values = {"mel": mel, "checkpoint": STATE, "file": "latest_weights.pyt", **run}
        values["settings"] = {"hparams.py": literals(settings)}
        if mode == "RAW":
            values |= {"recording": wave, "features": features, "labels": dsp.encode_mu_law(wave, 2**hp.bits)}
        yield f"fatchord-{mode.lower()}", values


@project
def rtvc(root: Path) -> Outputs:
    """CorentinJ/Real-Time-Voice-Cloning."""
    import vocoder.hparams as hp
    from synthesizer import audio as synthesizer_audio
    from synthesizer.hparams import hparams as synthesizer
    from vocoder import audio, inference
    from vocoder.models import fatchord_version as module

    for name, value in FATCHORD_SIZES.items():
        setattr(hp, name, value)
    original = recording(hp.sample_rate)
    wave = original / np.abs(original).max() * synthesizer.rescaling_max  # as synthesizer/preprocess.py does
    spectrogram = synthesizer_audio.melspectrogram(wave, synthesizer).astype(np.float32)
    features = spectrogram / hp.mel_max_abs_value  # as vocoder_dataset.py and inference.py do
    model = _network(module, vars(hp), hp.hop_length, hp.sample_rate)
    inference._model = model
    run = run_forced(
        module,
        model,
        spectrogram[:, FIRST : FIRST + FRAMES],
        hp.hop_length,
        lambda m: inference.infer_waveform(m[0].numpy(), batched=False, progress_callback=lambda *args: None),
    )
    emphasised = np.clip(audio.pre_emphasis(wave), -1, 1)
    shared = {name: value for name, value in plain(hp).items() if name.startswith(("voc_", "bits", "mu_law"))}
    taken = {
        "sample_rate": "sample_rate",
        "n_fft": "n_fft",
        "num_mels": "num_mels",
        "hop_length": "hop_size",
        "win_length": "win_size",
        "fmin": "fmin",
        "min_level_db": "min_level_db",
        "ref_level_db": "ref_level_db",
        "mel_max_abs_value": "max_abs_value",
        "preemphasis": "preemphasis",
        "apply_preemphasis": "preemphasize",
    }
    text = "from synthesizer.hparams import hparams as _syn_hp\n\n"
    text += "".join(f"{name} = _syn_hp.{other}\n" for name, other in taken.items()) + literals(shared)
    yield (
        "rtvc",
        {
            "recording": original,
            "features": features,
            "labels": audio.encode_mu_law(emphasised, mu=2**hp.bits),
            "mel": features[:, FIRST : FIRST + FRAMES],
            "checkpoint": {"model_state": STATE, "optimizer_state": OPTIMIZER},
            "file": "vocoder.pt",
            "settings": {
                "vocoder/hparams.py": text,
                "synthesizer/hparams.py": arguments("HParams", plain(synthesizer)),
            },
            **run,
        },
    )


@project
def forwardtacotron_v1(root: Path) -> Outputs:
    """as-ideas/ForwardTacotron before version 2 (hparams.py)."""
    stand_in("webrtcvad", Vad=None)
    from utils import hparams as hp

    settings = _hparams(root / "pretrained" / "pretrained_hparams.py")
    _configure(hp, settings)
    from models import fatchord_version as module
    from utils import dsp

    wave = recording(hp.sample_rate)
    features = dsp.melspectrogram(wave).astype(np.float32)
    mel = features[:, FIRST : FIRST + FRAMES]
    model = _network(module, settings, hp.hop_length, hp.sample_rate, NATURAL)
    run = run_forced(
        module, model, mel, hp.hop_length, lambda m: model.generate(m, None, False, 0, 0, hp.mu_law, silent=True)
    )
    yield (
        "forwardtacotron-v1",
        {
            "recording": wave,
            "features": features,
            "labels": dsp.encode_mu_law(wave, 2**hp.bits),
            "mel": mel,
            "checkpoint": STATE,
            "file": "wave_575K.pyt",
            "settings": {"pretrained_hparams.py": literals(settings)},
            **run,
        },
    )


@project
def forwardtacotron_v2(root: Path) -> Outputs:
    """as-ideas/ForwardTacotron from version 2 on (config.yaml, stored in the checkpoint)."""
    import yaml

    stand_in("webrtcvad", Vad=None)
    from models import fatchord_version as module
    from utils.dsp import DSP

    config = yaml.safe_load((root / "config.yaml").read_text())
    config["vocoder"]["model"] |= {
        "rnn_dims": RNN,
        "fc_dims": FC,
        "compute_dims": COMPUTE,
        "res_out_dims": AUX,
        "res_blocks": BLOCKS,
    }
    config = {name: config[name] for name in ("voc_model_id", "tts_model_id", "tts_model", "dsp", "vocoder")}
    dsp = DSP.from_config(config)
    wave = recording(dsp.sample_rate)
    features = dsp.wav_to_mel(wave).astype(np.float32)
    mel = features[:, FIRST : FIRST + FRAMES]
    model = module.WaveRNN.from_config(config)
    give_weights(model, 2, NATURAL)
    run = run_forced(
        module, model, mel, dsp.hop_length, lambda m: model.generate(m, False, 0, 0, dsp.mu_law, silent=True)
    )
    yield (
        "forwardtacotron-v2",
        {
            "recording": wave,
            "features": features,
            "labels": dsp.encode_mu_law(wave, 2**dsp.bits),
            "mel": mel,
            "checkpoint": {"model": STATE, "optim": OPTIMIZER, "config": config},
            "file": "wave_step575k.pt",
            "settings": {"config.yaml": yaml.safe_dump(config, sort_keys=False)},
            **run,
        },
    )


@project
def erogol(root: Path) -> Outputs:
    """erogol/WaveRNN: its published modes."""
    from models import wavernn as module
    from utils.audio import AudioProcessor
    from utils.generic_utils import load_config

    for name, file, mode, changes in (
        ("erogol-lj-mold", "config.json", "mold", {}),
        ("erogol-lj-10bit", "config.json", 10, {"mulaw": False}),
        ("erogol-universal", "config_libri360.json", "mold", {"upsample_factors": [5, 5, 8]}),
    ):
        config = {**load_config(root / file), "mode": mode, **changes}
        config = {key: value for key, value in config.items() if not key.endswith("_path") and key != "distributed"}
        processor = AudioProcessor(**config["audio"])
        wave = recording(processor.sample_rate)
        features = processor.melspectrogram(wave).astype(np.float32)
        mel = features[:, FIRST : FIRST + FRAMES]
        model = module.Model(
            rnn_dims=RNN,
            fc_dims=FC,
            mode=mode,
            mulaw=config.get("mulaw", False),
            pad=config["pad"],
            use_aux_net=config.get("use_aux_net", True),
            use_upsample_net=config.get("use_upsample_net", True),
            upsample_factors=config["upsample_factors"],
            feat_dims=config["audio"]["num_mels"],
            compute_dims=COMPUTE,
            res_out_dims=AUX,
            res_blocks=BLOCKS,
            hop_length=processor.hop_length,
            sample_rate=processor.sample_rate,
        )
        # Without an upsampling network the mel is multiplied by 0.045: louder weights keep it audible.
        give_weights(model, 6, 1.0 if config.get("use_upsample_net", True) else 0.06)
        sampler = module.sample_from_discretized_mix_logistic
        run = run_forced(module, model, mel, processor.hop_length, lambda m, n=model: n.generate(m, False, 0, 0))
        module.sample_from_discretized_mix_logistic = sampler
        values: dict[str, Any] = {
            "mel": mel,
            "checkpoint": {
                "model": STATE,
                "optimizer": OPTIMIZER,
                "step": 100,
                "epoch": 1,
                "linear_loss": 4.5,
                "date": "March 31, 2019",
            },
            "file": "best_model.pth.tar",
            "settings": {"config.json": "// written by hand\n" + json.dumps(config, indent=4)},
            **run,
        }
        if name != "erogol-lj-10bit":
            values |= {"recording": wave, "features": features}
        yield name, values


@project
def mozilla(root: Path) -> Outputs:
    """mozilla/TTS: the features of its WaveRNN configuration, and one network."""
    from TTS.utils.audio import AudioProcessor

    module = importlib.import_module("TTS.vocoder.models.wavernn")
    text = "".join(
        line.split("//")[0] + "\n"
        for line in (root / "TTS/vocoder/configs/wavernn_config.json").read_text().split("\n")
    )
    config = json.loads(text)
    sizes = {"rnn_dims": RNN, "fc_dims": FC, "compute_dims": COMPUTE, "res_out_dims": AUX, "num_res_blocks": BLOCKS}
    config["wavernn_model_params"] |= sizes
    config = {key: value for key, value in config.items() if not key.endswith("_path")}
    processor = AudioProcessor(**config["audio"])
    wave = recording(processor.sample_rate)
    features = processor.melspectrogram(wave).astype(np.float32)
    mel = features[:, FIRST : FIRST + FRAMES]
    model = module.WaveRNN(
        **sizes,
        mode=config["mode"],
        mulaw=config["mulaw"],
        pad=config["padding"],
        use_aux_net=True,
        use_upsample_net=True,
        upsample_factors=config["wavernn_model_params"]["upsample_factors"],
        feat_dims=config["audio"]["num_mels"],
        hop_length=processor.hop_length,
        sample_rate=processor.sample_rate,
    )
    give_weights(model, 7, 4.0)
    run = run_forced(module, model, mel, processor.hop_length, lambda m: model.inference(m, False, 0, 0))
    yield (
        "mozilla-libritts",
        {
            "recording": wave,
            "features": features,
            "mel": mel,
            "checkpoint": {
                "model": STATE,
                "optimizer": OPTIMIZER,
                "scheduler": {},
                "model_disc": None,
                "step": 1,
                "epoch": 1,
            },
            "file": "checkpoint_1000.pth.tar",
            "settings": {"config.json": json.dumps(config, indent=4)},
            **run,
        },
    )
