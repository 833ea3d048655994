"""The PyTorch families: the reference for every executor.

Each model is a `wavernn_trt.export.families.wavernn.WaveRNN` of three modules: a conditioner (run once per utterance),
a decoder step (once per sample) and a sampler.
"""
