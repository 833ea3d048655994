"""The error of everything between a kernel's source and its launch."""


class KernelError(RuntimeError):
    """A kernel that cannot be compiled, loaded or launched: what failed, in the tool's own words, and the way out."""
