"""Scoring a model on speech, in bits a sample."""
