"""Prometheus metrics of vocoders and model caches."""
