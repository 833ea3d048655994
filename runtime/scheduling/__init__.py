"""Continuous batching: from utterances that wait to lanes whose slots are full, and back to whoever asked."""
