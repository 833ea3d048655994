"""Decoding of conditioning to samples: chunk loop, random numbers, sample coding, folding, teacher forcing."""
