"""From conditioning to samples: the chunk loop, random numbers, sample values, folding, teacher forcing."""
