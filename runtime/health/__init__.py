"""Whether a model and its executor are what they should be, and who answers when they are not."""
