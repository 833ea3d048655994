"""From mel spectrograms to waveforms: executors, chunks, folding, streaming, audio in and out."""
