"""The error that compiling, loading and launching kernels raises."""


class KernelError(RuntimeError):
    """A kernel cannot be compiled, loaded or launched. The message quotes the tool and names the way out."""
