"""From a mel to the conditioning rows of each chunk: whole, block by block, or incrementally as the mel arrives."""
