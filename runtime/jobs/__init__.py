"""Files to files: plans, reading ahead, writing behind, reports, and going on after an end of any kind."""
