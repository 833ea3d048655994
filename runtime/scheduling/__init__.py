"""Continuous batching: utterances wait, get slots in lanes, and are decoded together."""
