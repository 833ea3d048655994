"""All keys in the settings of published WaveRNN projects, their meaning here, and the types of their values.

Projects: fatchord/WaveRNN, Real-Time-Voice-Cloning, ForwardTacotron 1 and 2, torchaudio (its example pipeline),
erogol/WaveRNN, mozilla/TTS and Coqui TTS, G-Wang, geneing and turian/WaveRNN-Pytorch (whose names are those of
r9y9/wavenet_vocoder), UniversalVocoding 0.1 and 0.2. `interpretation.py` reads files by this table.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from typing import Any

from wavernn_trt.export.config import AudioConfig


@dataclass(frozen=True)
class Setting:
    """One setting with all of its names."""

    name: str
    """The name here. Those of `SETTABLE` are results; the others are converted to them (see ``settings.interpret``)."""
    aliases: tuple[str, ...]
    """Other projects' names."""
    about: str
    """Unit and meaning, also that of a null where it is not "not stated"."""


AUDIO_FIELDS = tuple(field.name for field in dataclasses.fields(AudioConfig))
SETTABLE = (*AUDIO_FIELDS, "mode", "mu_law", "label_scale", "amplitude_feedback", "temperature")
"""Names that ``--set`` takes; a settings file may use them as well."""

SETTINGS: tuple[Setting, ...] = (
    Setting("sample_rate", ("sr", "sampling_rate", "fs"), "Hz"),
    Setting("hop_length", ("hop_size", "hop_len", "n_shift"), "samples between frames; null: see frame_shift_ms"),
    Setting("frame_shift_ms", (), "hop_length in milliseconds, rounded down to samples; used where hop_length is null"),
    Setting("win_length", ("win_size", "win_len", "window_length"), "samples under the window; null: frame_length_ms"),
    Setting("frame_length_ms", ("win_length_ms",), "win_length in milliseconds; without it a null win_length is n_fft"),
    Setting("n_fft", ("fft_size", "num_fft", "filter_length", "fft_length", "nfft"), "samples in a Fourier transform"),
    Setting("fft_bins", ("num_freq",), "n_fft / 2 + 1"),
    Setting("n_mels", ("num_mels", "feat_dims", "n_mel_channels", "mel_channels", "n_freq"), "mel bins"),
    Setting("fmin", ("mel_fmin", "f_min"), "Hz, lower edge of the first filter; null: 0"),
    Setting("fmax", ("mel_fmax", "f_max"), "Hz, upper edge of the last filter; null: half the sample rate"),
    Setting("mel_norm", (), "slaney (unit area) or sum (weights add up to one)"),
    Setting("pad_mode", ("stft_pad_mode",), "constant or reflect"),
    Setting("preemphasis", ("preemph", "pre_emphasis"), "coefficient; null: 0"),
    Setting("apply_preemphasis", ("preemphasize",), "false: the coefficient preemphasis is not applied"),
    Setting("waveform_preemphasis", (), "coefficient of the pre-emphasis that the predicted waveform carries"),
    Setting("log", (), "decibel or natural"),
    Setting("log_func", (), "np.log10 or np.log (Coqui)"),
    Setting("spec_gain", (), "factor of log_func: 20 for decibels, 1 for a natural logarithm (Coqui)"),
    Setting("reference_db", ("ref_level_db", "ref_db"), "decibels subtracted from levels"),
    Setting("min_level_db", (), "level that becomes the lower end of mel_range; null: levels stay in decibels"),
    Setting("top_db", (), "dynamic range; min_level_db is its negative (UniversalVocoding 0.2)"),
    Setting("mel_range", (), "two numbers: the model's values for the lowest and the highest level"),
    Setting("normalised", ("signal_norm", "signal_normalization"), "false: levels are not mapped to a range"),
    Setting("max_level", ("max_norm", "max_abs_value", "mel_max_abs_value"), "upper end of mel_range"),
    Setting("symmetric", ("symmetric_norm", "symmetric_mels"), "lower end of mel_range: minus the upper end, or 0"),
    Setting(
        "clipped", ("clip_norm", "allow_clipping_in_normalization"), "whether levels outside the range are clipped"
    ),
    Setting("clip_high", (), "whether levels above the range are clipped"),
    Setting("clip_low", (), "whether levels below the range are clipped"),
    Setting("floor", (), "smallest magnitude before the logarithm"),
    Setting("stft", (), "centred or lws (window and frames of the package lws)"),
    Setting("use_lws", (), "true: stft is lws"),
    Setting("peak", (), "level that recordings are scaled to; null: none"),
    Setting("scale_peak", ("peak_norm", "rescale", "rescaling"), "whether recordings are scaled to a peak"),
    Setting("rescaling_max", (), "peak that recordings are scaled to with scale_peak (default: 1)"),
    Setting("do_sound_norm", (), "whether recordings are scaled to a peak of 0.95 (Coqui)"),
    Setting("delay", (), "delay of the output against the recording, in samples"),
    Setting("mode", ("voc_mode", "loss"), "raw, mol, gauss, a number of bits, … : what the outputs are"),
    Setting("bits", ("n_bits",), "2 to this power is the number of classes"),
    Setting("input_type", (), "raw, mixture, bits or mulaw (G-Wang, geneing)"),
    Setting("distribution", (), "gaussian or beta, of the input type raw (G-Wang)"),
    Setting("mulaw_classes", ("mulaw_quantize_channels",), "classes of the input type mulaw"),
    Setting("mu_law", ("mulaw",), "whether classes are mu-law companded"),
    Setting("label_scale", (), "symmetric or librosa: the amplitude of a class"),
    Setting("amplitude_feedback", (), "whether decoded amplitudes are fed back (G-Wang's mulaw)"),
    Setting("temperature", (), "divides the logits"),
    Setting("hidden_size", ("rnn_dims", "n_rnn", "rnn_size", "rnn_channels"), "units of each recurrent layer"),
    Setting("fc_size", ("fc_dims", "n_fc", "fc_channels"), "units of the first dense layer"),
    Setting("compute_size", ("compute_dims", "n_hidden", "n_hidden_melresnet"), "channels inside the residual network"),
    Setting("aux_size", ("res_out_dims", "n_output", "n_output_melresnet"), "output channels of the residual network"),
    Setting("blocks", ("res_blocks", "num_res_blocks", "n_res_block"), "residual blocks"),
    Setting("factors", ("upsample_factors", "upsample_scales"), "factors of the upsampling stages"),
    Setting("pad", ("padding",), "context of the residual network on each side, in frames"),
    Setting("uses_aux", ("use_aux_net",), "whether the decoder reads the residual network's output"),
    Setting("uses_upsampling", ("use_upsample_net",), "false: frames are interpolated"),
    Setting("outputs", ("n_classes",), "width of the last layer"),
    Setting("conditioning_size", ("conditioning_channels",), "units of UniversalVocoding's first network"),
    Setting("embedding_size", ("embedding_dim",), "width of UniversalVocoding's embedding"),
    # Not supported here; a value other than the usual one is reported.
    Setting("stats_path", (), "mean and variance that mels are normalised by (Coqui)"),
    Setting("do_amp_to_db_mel", (), "false: mels are not in decibels (Coqui)"),
    Setting("do_rms_norm", (), "recordings scaled to one RMS level (Coqui)"),
)

PREFIX = "voc_"
"""Prefix of vocoder settings in fatchord's ``hparams.py`` and its descendants'."""

SECTIONS = frozenset(
    {"audio", "preprocess", "preprocessing", "dsp", "waveform", "sampling", "mulaw", "model", "model_args", "vocoder"}
    | {"wavernn_model_params", "model_params", "hparams", "hyper_parameters", "config", "args", "params"}
    | {"settings"}
)
"""Names of sections (objects) with settings of a vocoder; other sections are not read."""

_NO_EFFECT_WORDS = """
wav_path data_path tts_model_id model_id voc_model_id model_name model_description ignore_tts name run_name
run_description project_name output_path feature_path logger_uri dashboard_logger wandb_entity print_step plot_step
print_eval model_param_stats log_model_step audio_processor version distributed url backend dataset_path datasets
phoneme_cache_path github_branch restore_path in_dir out_dir checkpoint_dir checkpoint dataset_dir resume defaults
file_prefix output_directory dataset val_ratio cudnn_enable cudnn_benchmark cudnn_deterministic
seed n_val epochs nepochs n_epochs num_epochs_before_test batch_size eval_batch_size batch_size_gen lr learning_rate
initial_learning_rate fix_learning_rate grad_clip grad_norm clip_grad clip_grad_norm max_grad_norm optimizer
optimizer_params scheduler_after_epoch lr_scheduler lr_scheduler_params lr_schedule_type lr_step_interval step_gamma
noam_warm_up_steps warmup_steps adam_beta1 adam_beta2 adam_eps amsgrad weight_decay wd save_every_step
evaluate_every_step save_step save_n_checkpoints save_checkpoints save_all_best save_best_after save_on_interrupt
checkpoint_step checkpoint_every checkpoint_interval total_steps test_samples seq_len seq_len_factor seq_len_samples
mel_len schedule gen_samples_every gen_num_samples keep_top_k num_workers n_workers workers num_loader_workers
num_eval_loader_workers use_noise_augment use_cache eval_split_size eval_split_max_size run_eval run_eval_steps
test_delay_epochs mixed_precision precision use_grad_scaler allow_tf32 training_seed distributed_backend
distributed_url target_loss n_steps num_steps num_evaluation_utterances sample_frames audio_slice_frames start_prune
prune_steps sparsity_target sparsity_target_rnn sparse_group jitter kernel_size normalization max_mel_len bin_lengths
start_with_eval small_run pad_short conv_pad epochs_num start_epoch early_stop_patience cudnn model_ema
grad_accum_steps checkpoint_interval_steps test_every_epochs
tb_model_param_stats num_val_loader_workers extract_durations_with_dijkstra
gen_at_checkpoint gen_batched target overlap target_samples overlap_samples batched power griffin_lim_iters
magnitude_power silence_threshold trim_silence do_trim_silence trim_start_end_silence trim_silence_top_db
trim_long_silences trim_db db_level resample pitch_max_freq pitch_fmax pitch_fmin pitch_min_freq pitch_extractor
pitch_frame_length do_amp_to_db_linear clip_mels_length max_mel_frames synthesis_batch_size speaker_embedding_size
silence_min_duration_split utterance_min_duration log_scale_min quantize_channels language cleaner_name use_phonemes
audio_format min_mel_len metafile_type n_voice_test generator_model
"""
_NO_EFFECT = frozenset(_NO_EFFECT_WORDS.split())
"""Paths, names, logging; training; folding, silence trimming, Griffin-Lim, pitch, and acoustic models."""
_NO_EFFECT_PREFIXES = ("tts_", "vad_", "griffin_lim_", "wandb_", "forward_", "cudnn_", "distributed_", "adam_")

_SWITCHES = frozenset(
    {"apply_preemphasis", "normalised", "symmetric", "clipped", "clip_high", "clip_low", "use_lws", "scale_peak"}
    | {"do_sound_norm", "mu_law", "amplitude_feedback", "uses_aux", "uses_upsampling", "do_amp_to_db_mel"}
    | {"do_rms_norm"}
)
_INTEGERS = frozenset(
    {"sample_rate", "hop_length", "win_length", "n_fft", "fft_bins", "n_mels", "delay", "bits", "mulaw_classes"}
    | {"hidden_size", "fc_size", "compute_size", "aux_size", "blocks", "pad", "outputs", "conditioning_size"}
    | {"embedding_size"}
)
_FRACTIONS = frozenset(
    {"frame_shift_ms", "frame_length_ms", "fmin", "fmax", "preemphasis", "waveform_preemphasis", "spec_gain"}
    | {"reference_db", "min_level_db", "top_db", "max_level", "floor", "peak", "rescaling_max", "temperature"}
)
_LISTS = frozenset({"mel_range", "factors"})
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
_LONGEST = 40

_IN_SECTION = {"waveform.preemphasis": "waveform_preemphasis"}
"""Keys whose meaning depends on their section."""
_NAMES = {alias: setting.name for setting in SETTINGS for alias in (setting.name, *setting.aliases)}


def setting_of(path: str) -> str | None:
    """Returns the name here of a project's key, which may be preceded by the names of its sections and dots.

    ``None`` for keys that are not settings of a vocoder's arithmetic. Case does not matter.
    """
    path = path.lower()
    key = path.rpartition(".")[2]
    return _IN_SECTION.get(".".join(path.split(".")[-2:])) or _NAMES.get(key) or _NAMES.get(key.removeprefix(PREFIX))


def without_effect(key: str) -> bool:
    """Whether a key is known and has no effect on a trained vocoder."""
    bare = key.lower().removeprefix(PREFIX)
    return bare in _NO_EFFECT or bare.startswith(_NO_EFFECT_PREFIXES)


def nearest(key: str) -> str | None:
    """Returns the known key that a misspelt one resembles; ``None`` where none does."""
    found = difflib.get_close_matches(key.lower(), _NAMES, n=1, cutoff=0.75)
    return found[0] if found else None


def plain_value(name: str, value: Any) -> Any:
    """Returns a value converted to the setting's type; a value that does not fit is returned unchanged.

    Args:
        name: a name of `SETTINGS`.
        value: ``"22050"``, ``22050.0``, ``"1e-5"`` (text in YAML), ``"False"``, ``0`` for a switch, ``"5,5,11"``.
    """
    if name in _SWITCHES:
        if isinstance(value, str):
            return _WORDS.get(value.strip().lower(), value)
        return bool(value) if isinstance(value, int | float) and value in (0, 1) else value
    if name in _INTEGERS or name == "mode":  # which may be a number of bits
        value = _number(value)
        return int(value) if isinstance(value, float) and value.is_integer() else value
    if name in _FRACTIONS:
        return _number(value)
    if name in _LISTS:
        if isinstance(value, str) and len(value) <= _LONGEST and "," in value:
            value = [part.strip() for part in value.strip().strip("()[]").split(",")]
        if isinstance(value, list | tuple):
            return type(value)(_number(item) for item in value)
    return value


def misfit(name: str, value: object) -> str | None:
    """Returns the expected type of a setting's value, for messages; ``None`` where the value has it."""
    if name in _SWITCHES and not isinstance(value, bool):
        return "true or false"
    if name in _INTEGERS and (isinstance(value, bool) or not isinstance(value, int)):
        return "a whole number"
    if name in _FRACTIONS and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a number"
    return None


def _number(value: Any) -> Any:
    """Converts text to a number where possible."""
    if not isinstance(value, str) or len(value) > _LONGEST or not _NUMBER.fullmatch(value.strip()):
        return value
    text = value.strip()
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
