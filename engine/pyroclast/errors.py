"""Every error that Pyroclast raises on purpose, so that one `except` can catch them all.

PyroclastError
 +-- ModelFileError             a model file is missing, cut, damaged or inconsistent
 |    +-- UnsupportedModelError its architecture, or a tensor's type, is not supported here
 +-- TokenizerError             a vocabulary cannot be used, or an id lies outside it
 +-- TemplateError              a chat template is missing, wrong, or tries to leave its sandbox
 +-- SamplingError              a sampling parameter is unknown or out of range (also a ValueError)
 +-- RequestError               a prompt that cannot be run: empty, or with ids that do not exist
 |    |                         (also a ValueError)
 |    +-- ContextOverflowError  prompt and max_tokens do not fit the model's context
 +-- NumericalError             NaN or infinity in the forward pass; names the layer
 +-- KernelError                unknown op, variant or rule, or a variant that cannot run here
 |                              (also a pyroclast_kernels.errors.KernelError)
 +-- TrainingError              data, a run's folder or a loss with which training cannot go on
 |                              (also a ValueError)
 +-- CacheFileError             a saved state, or the folder of cached pages, cannot be used
 +-- ClosedError                use after close()
 +-- ReentryError               a call from the middle of a step that the same thread runs
 +-- QueueFullError             more requests or tokens wait than may
 +-- MemoryBudgetError          the model or its cache does not fit the memory that it may use

Programming errors inside Pyroclast are plain asserts and never one of these.
"""

from pyroclast_kernels.errors import KernelError as _KernelLibraryError

# A file may name something with megabytes of text; a message that quotes it stays readable.
_MAX_MESSAGE_CHARS = 2000


class PyroclastError(Exception):
    """Base of every error raised on purpose.  The middle of a long message is left out."""

    def __init__(self, *args: object) -> None:
        super().__init__(*[_clipped(arg) if isinstance(arg, str) else arg for arg in args])


def reason_of(error: Exception) -> str:
    """The system's words for an OSError, without the number and the path, which our message has;
    any other exception's own words."""
    return getattr(error, "strerror", None) or str(error)


def _clipped(message: str) -> str:
    n_left_out = len(message) - _MAX_MESSAGE_CHARS
    if n_left_out <= 0:
        return message
    half = _MAX_MESSAGE_CHARS // 2
    return f"{message[:half]} ... ({n_left_out} characters left out) ... {message[-half:]}"


class ModelFileError(PyroclastError):
    """A model file is missing, cut, damaged or inconsistent; the message names file and place."""


class UnsupportedModelError(ModelFileError):
    """The file is sound, but holds an architecture, tensor type or option not supported here."""


class TokenizerError(PyroclastError):
    """A vocabulary cannot be used, or a token id lies outside it."""


class TemplateError(PyroclastError):
    """A chat template is missing, does not render, or tries to leave its sandbox."""


class SamplingError(PyroclastError, ValueError):
    """A sampling parameter is unknown or out of range; the message says what is allowed."""


class RequestError(PyroclastError, ValueError):
    """A prompt that cannot be run: empty, or with token ids outside the vocabulary."""


class ContextOverflowError(RequestError):
    """The prompt, or the prompt and max_tokens together, exceed the model's context."""


class NumericalError(PyroclastError):
    """The forward pass met NaN or infinity; the message names the layer."""


class KernelError(PyroclastError, _KernelLibraryError):
    """Unknown op, variant or rule, or a variant that cannot run on this machine."""


class TrainingError(PyroclastError, ValueError):
    """Data, settings, a run's folder or a loss with which training cannot begin or go on."""


class CacheFileError(PyroclastError):
    """A saved state, or the folder of cached pages, cannot be used; the message says why."""


class ClosedError(PyroclastError):
    """Something was used after close()."""


class ReentryError(PyroclastError):
    """A model was used in the middle of a step that the same thread runs: it would never end."""


class QueueFullError(PyroclastError):
    """More requests or tokens wait than may; nothing was queued.  Try again later."""


class MemoryBudgetError(PyroclastError):
    """The model or its cache does not fit into the memory that it may use."""
