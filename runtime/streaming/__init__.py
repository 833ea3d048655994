"""Waveforms that are read while they are decoded, in this process or another."""
