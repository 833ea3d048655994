"""Text to speech: front end, acoustic model, and the speaker that joins them with a vocoder."""
