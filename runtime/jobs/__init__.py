"""Files to files: the plan of jobs, the pipeline that runs them, and the report."""
