"""The one error of the kernel library; the engine derives its own KernelError from it."""


class KernelError(Exception):
    """A kernel was asked for what it cannot do.

    An unknown op, variant, rule or weight format, a shape that does not fit, or a variant that
    this machine cannot run.
    """
