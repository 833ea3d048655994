"""Executors, which run a conditioner and a decoder: one protocol, several backends."""
