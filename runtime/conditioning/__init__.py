"""Computes the conditioning rows of each chunk: for a whole mel, block by block, or while the mel arrives."""
