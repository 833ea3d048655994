"""Training of the acoustic model: labelled corpora, losses and the command `train`."""
