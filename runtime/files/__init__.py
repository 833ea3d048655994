"""Recordings, mels and waveforms as files and standard streams."""
