"""Reads settings files of published projects."""
