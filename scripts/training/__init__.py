"""Trains voices, measures them and writes samples."""
