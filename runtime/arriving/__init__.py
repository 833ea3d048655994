"""Mels that are spoken while they arrive."""
