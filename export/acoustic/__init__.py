"""The acoustic model, which turns phonemes into a mel spectrogram: its network and its export."""
