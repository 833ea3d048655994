"""Detects damage: a probe for loaded models, a guard for outputs, and Griffin-Lim where no model works."""
