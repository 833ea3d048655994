"""Audio streams: a waveform is read while it is decoded, in this process or another."""
