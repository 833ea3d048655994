"""Whether a mel is what a model was trained on: `compare_mel` compares it with the model's features of a recording."""

from wavernn_trt.runtime.mel_comparison.compare import compare_mel as compare_mel
from wavernn_trt.runtime.mel_comparison.faults import MelComparison as MelComparison
from wavernn_trt.runtime.mel_comparison.faults import MelFault as MelFault
