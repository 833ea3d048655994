"""Several models in memory."""
