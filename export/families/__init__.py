"""The PyTorch families: the readable reference that every executor is compared with.

Each family is a `wavernn_trt.export.families.wavernn.WaveRNN` made of three modules: a conditioner (once an utterance),
a decoder step (once a sample) and a sampler.
"""
