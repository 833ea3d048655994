"""Executors: what runs a conditioner and a decoder, behind one protocol."""
