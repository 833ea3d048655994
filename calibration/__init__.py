"""Scoring on speech, calibration of activation ranges, quantisation, and its loss."""
