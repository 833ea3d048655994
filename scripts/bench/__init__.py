"""The command ``wavernn-trt bench``: measurements and their reports."""
