"""Detection of damage: the probe of a loaded model and the output guard; Griffin-Lim as the last resort."""
