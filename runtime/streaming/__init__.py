"""Waveforms that are listened to while they are decoded."""
