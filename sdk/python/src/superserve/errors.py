"""Errors. All derive from :class:`SuperserveError`."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Optional, Union

__all__ = [
    "AuthenticationError",
    "BuildError",
    "ConflictError",
    "NotFoundError",
    "OutputTooLargeError",
    "RateLimitError",
    "SandboxConnectionError",
    "SandboxError",
    "SandboxTimeoutError",
    "ServerError",
    "SuperserveError",
    "ValidationError",
]


class SuperserveError(Exception):
    """Base of all errors of this package.

    ``status_code`` is the HTTP status of the answer, None when there was none. ``code`` is the server's stable error
    code such as ``not_found``, or None. ``retry_after`` is how many seconds the server asks to wait, or None.
    """

    def __init__(
        self,
        message: str,
        status_code: Optional[int] = None,
        code: Optional[str] = None,
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.retry_after = retry_after


#: The base class under the name that other releases of this package use.
SandboxError = SuperserveError


class AuthenticationError(SuperserveError):
    """The API key or access token is missing (found before any request), wrong or not permitted: 401, 403."""


class ValidationError(SuperserveError):
    """The request is not valid: 400, 413, 416 and other 4xx, or refused before it was sent (``status_code`` None)."""


class NotFoundError(SuperserveError):
    """It does not exist, or belongs to another team: 404."""


class ConflictError(SuperserveError):
    """The state does not permit this now: 409, such as pausing a paused sandbox."""


class RateLimitError(SuperserveError):
    """Too many requests, or a quota is used up: 429; ``code`` tells them apart (``rate_limited``,
    ``too_many_sandboxes``, ...)."""


class ServerError(SuperserveError):
    """The platform failed (5xx), or gave an answer that is not understood (``code`` is ``invalid_response``)."""


class SandboxTimeoutError(SuperserveError, TimeoutError):
    """No answer in time. The call may still have taken effect. Also a built-in ``TimeoutError``."""


class SandboxConnectionError(SuperserveError, ConnectionError):
    """The server could not be reached, or the connection broke in the middle. Also a built-in ``ConnectionError``."""


class OutputTooLargeError(SuperserveError):
    """An answer is larger than the limit of the call; nothing of it is returned."""


class BuildError(SuperserveError):
    """A build of a template failed.

    ``code`` says where: ``bad_reference``, ``unsupported_platform``, ``image_pull_failed``, ``image_unsafe``,
    ``image_too_large``, ``step_failed``, ``boot_failed``, ``snapshot_failed``, ``start_cmd_failed``,
    ``ready_cmd_failed``, or else ``build_failed``. ``message`` is the detail. ``build_id`` and ``template_id`` say of
    what.
    """

    code: str

    def __init__(
        self, message: str, *, code: str, build_id: str, template_id: str, status_code: Optional[int] = None
    ) -> None:
        super().__init__(message, status_code, code)
        self.build_id = build_id
        self.template_id = template_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets it pass from a process to another."""
        known = {"code": self.code, "build_id": self.build_id, "template_id": self.template_id}
        return partial(type(self), **known, status_code=self.status_code), (self.message,)


_CLASSES = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}

_STATUS_OF_CODE = {
    "bad_request": 400,
    "is_directory": 400,
    "not_supported": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "rate_limited": 429,
}


def invalid_response(what: str, status_code: Optional[int] = None) -> ServerError:
    """The error for an answer that is not what the API promises."""
    return ServerError(f"unexpected answer from the server: {what}", status_code, "invalid_response")


def error_from_answer(status_code: int, body: bytes, retry_after: Optional[float] = None) -> SuperserveError:
    """The error for an answer with an error status; never fails, whatever the body is."""
    message, code = _message_and_code(body)
    if message is None:
        message = f"the server answered with status {status_code}"
    cls = _CLASSES.get(status_code)
    if cls is None:
        cls = ServerError if status_code >= 500 or status_code < 400 else ValidationError
    return cls(message, status_code, code, retry_after)


def error_from_event(event: dict[str, object]) -> SuperserveError:
    """The error that a stream or a session reports instead of an exit code."""
    message = _text(event.get("error")) or "the command could not be run to its end"
    code = _text(event.get("code")) or "internal_error"
    status = _STATUS_OF_CODE.get(code)
    cls = ServerError if status is None else _CLASSES.get(status, ValidationError)
    return cls(message, None, code)


def _message_and_code(body: bytes) -> tuple[Optional[str], Optional[str]]:
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):
        return None, None
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if isinstance(error, str):
        return error, None
    if not isinstance(error, dict):
        return None, None
    return _text(error.get("message")), _text(error.get("code"))


def _text(value: Union[object, None]) -> Optional[str]:
    return value if isinstance(value, str) and value else None
