"""What goes wrong with a request, as the status and the JSON that clients recognise."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pyroclast.errors import (
    ClosedError,
    ContextOverflowError,
    PyroclastError,
    QueueFullError,
    RequestError,
    SamplingError,
    TemplateError,
    TokenizerError,
)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    499: "request_cancelled",
}
_ANTHROPIC_TYPES = {
    413: "request_too_large",
    503: "overloaded_error",
    500: "api_error",
}
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")

_MISSING = re.compile(r"^Object missing required field `([^`]*)`$")


class HttpError(Exception):
    """A refusal: status, message, the field that is to blame, and a code that programs read.

    allow: the methods that the path takes."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
        **details: Any,
    ) -> None:
        # It may quote a request, in which JSON within a text can spell half a surrogate pair: a
        # reply, which is UTF-8, has none.
        message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.retry_after_s = param, code, retry_after_s
        self.allow, self.details = allow, details

    def body(self) -> dict[str, Any]:
        """{"error": {...}}, as OpenAI's API has it."""
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, "server_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error | self.details}

    def anthropic_body(self) -> dict[str, Any]:
        """{"type": "error", "error": {...}}, as Anthropic's API has it."""
        kind = _ANTHROPIC_TYPES.get(self.status) or _TYPES.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def headers(self) -> dict[str, str]:
        """Retry-After, where trying again can help; Allow, where another method would do."""
        found = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return found if self.allow is None else found | {"allow": self.allow}


def unreadable(where: str, kind: str) -> HttpError:
    """A part of a message that is no text."""
    return HttpError(
        400,
        f"this server reads text only; {where} is of type {kind!r:.40}",
        param=where,
        code="unsupported_content",
    )


def overflow(n_prompt: int, n_wanted: int, max_model_len: int, param: str) -> HttpError:
    """The prompt does not fit.  Agents look for one of three sentences before they shorten it: all
    three are there."""
    return HttpError(
        400,
        f"This model's maximum context length is {max_model_len} tokens. However, you requested "
        f"{n_prompt + n_wanted} tokens ({n_prompt} in the prompt, {n_wanted} for the completion). "
        f"The request exceeds the available context size: prompt is too long: {n_prompt + n_wanted}"
        f" tokens > {max_model_len} maximum. Shorten the prompt or ask for fewer tokens.",
        param=param,
        code="context_length_exceeded",
        n_prompt_tokens=n_prompt,
        n_ctx=max_model_len,
    )


def of_exception(error: BaseException) -> HttpError:
    """The refusal that an error of the engine becomes."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, ContextOverflowError):
        return HttpError(400, str(error), code="context_length_exceeded")
    if isinstance(error, QueueFullError):
        return HttpError(429, str(error), code="queue_full", retry_after_s=1)
    if isinstance(error, ClosedError):
        return HttpError(503, "the server is shutting down", code="shutting_down", retry_after_s=5)
    if isinstance(error, RequestError | SamplingError | TemplateError | TokenizerError):
        return HttpError(400, str(error), code="invalid_value")
    if isinstance(error, PyroclastError):  # of the model or the machine: trying again may help
        return HttpError(500, str(error), code=type(error).__name__)
    return HttpError(500, "internal error; the server's log has the details", code="internal_error")


def of_validation(error: msgspec.ValidationError) -> HttpError:
    """A body whose types are wrong: `param` is the path of the field."""
    text = str(error)
    found = _PATH.search(text)
    param = found[1] if found else None
    message = _PATH.sub("", text)
    if missing := _MISSING.search(message):
        param = f"{param}.{missing[1]}" if param else missing[1]
    return HttpError(400, f"{param}: {message}" if param else message, param=param or None)
