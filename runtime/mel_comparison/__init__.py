"""Comparison of a mel with a model's own features of the same recording: `compare_mel`."""

from wavernn_trt.runtime.mel_comparison.compare import compare_mel as compare_mel
from wavernn_trt.runtime.mel_comparison.faults import MelComparison as MelComparison
from wavernn_trt.runtime.mel_comparison.faults import MelFault as MelFault
