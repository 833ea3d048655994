"""What ``wavernn-trt bench`` measures, and how it says so."""
