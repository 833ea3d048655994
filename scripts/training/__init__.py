"""Training a voice, and presenting one."""
