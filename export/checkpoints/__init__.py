"""From a checkpoint file to weights, sizes and settings, without running anything that the file holds."""
