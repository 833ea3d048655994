"""Settings files of published projects, read in this package's terms."""
