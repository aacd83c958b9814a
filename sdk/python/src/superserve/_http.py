"""What both clients share about HTTP: one call's description, its errors and its retries."""

from __future__ import annotations

import email.utils
import functools
import json
import os
import random
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Optional

import httpx

from .errors import (
    OutputTooLargeError,
    SandboxConnectionError,
    SandboxTimeoutError,
    SuperserveError,
    ValidationError,
    invalid_response,
)

MAX_ATTEMPTS = 3
RETRY_STATUSES = frozenset({429, 502, 503, 504})
#: Seconds; a server that asks for more gets no second try, the caller decides.
MAX_RETRY_AFTER = 60.0
#: Bytes of a JSON answer. The largest is an exec's: two streams of 4 MiB, each byte at most six as JSON.
MAX_ANSWER_BYTES = 64 << 20
#: Bytes of an error's body.
MAX_ERROR_BYTES = 1 << 20
CONNECT_TIMEOUT = 10.0
#: Seconds; sockets take no longer timeouts.
MAX_TIMEOUT = 2_000_000.0
#: As many connections as there are calls at once: streams and watches hold theirs for as long as they like.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=5.0)


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Sequence[tuple[str, str]] = ()
    body: Optional[bytes] = field(default=None, repr=False)
    content_type: str = "application/json"
    #: Seconds without a byte from the server.
    idle_timeout: float = 60.0
    #: Seconds for the whole answer; None: as long as bytes come.
    total_timeout: Optional[float] = None
    max_bytes: int = MAX_ANSWER_BYTES
    #: The answer is a file: all of it, and its end can be told.
    needs_whole: bool = False

    def request_headers(self) -> dict[str, str]:
        """All headers. Compressed answers are not asked for: their size could not be checked against Content-Length."""
        found = {"Accept-Encoding": "identity", **self.headers}
        if self.body is not None:
            found["Content-Type"] = self.content_type
        return found

    def timeout(self) -> httpx.Timeout:
        """The timeouts of the transport."""
        idle = min(self.idle_timeout, MAX_TIMEOUT)
        return httpx.Timeout(idle, connect=min(CONNECT_TIMEOUT, idle))


@dataclass(frozen=True)
class Answer:
    """A whole answer with a good status."""

    status_code: int
    headers: httpx.Headers
    body: bytes

    def json(self) -> object:
        """The body, which must be JSON."""
        try:
            parsed: object = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            kind = self.headers.get("content-type", "no content type")[:100]
            raise invalid_response(f"no JSON ({kind}, {len(self.body)} bytes)", self.status_code) from error
        return parsed

    def done(self) -> None:
        """For calls that answer nothing of interest: what is no JSON either comes from somebody else."""
        if self.body:
            self.json()


class Attempt:
    """Decides whether a failed attempt is followed by another. One per call."""

    def __init__(self, method: str) -> None:
        self._idempotent = method in ("GET", "DELETE")
        self.number = 1
        self._lost_answer = False

    def delay(self, error: SuperserveError) -> Optional[float]:
        """Seconds until the next attempt; None: no more."""
        if not self._idempotent or self.number >= MAX_ATTEMPTS or not _passing(error):
            return None
        if isinstance(error, SandboxConnectionError) or error.status_code in (502, 504):
            self._lost_answer = True
        asked = error.retry_after
        if asked is not None and asked > MAX_RETRY_AFTER:
            return None
        backoff = 0.25 * float(1 << (self.number - 1))
        self.number += 1
        jitter: float = 0.5 + random.random()
        return max(asked or 0.0, backoff * jitter)

    def already_deleted(self, error: SuperserveError) -> bool:
        """A repeated DELETE that finds nothing: the first one, whose answer got lost, has done it."""
        return self._lost_answer and error.status_code == 404


def _passing(error: SuperserveError) -> bool:
    if isinstance(error, SandboxTimeoutError):
        return isinstance(error.__cause__, (httpx.ConnectTimeout, httpx.PoolTimeout))
    return isinstance(error, SandboxConnectionError) or error.status_code in RETRY_STATUSES


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns the transport's errors into ours."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise SandboxTimeoutError(f"{what}: no answer in time") from error
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ValidationError(f"{what}: the request cannot be sent: {error}") from error
    except httpx.TransportError as error:
        detail = str(error) or type(error).__name__
        raise SandboxConnectionError(f"{what}: {detail}") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise SandboxConnectionError(f"{what}: {error}") from error


@contextmanager
def unsendable(what: str) -> Iterator[None]:
    """Turns the refusal of what has no form on the wire into an error of ours, without the cause: it may quote secrets."""
    try:
        yield
    except (UnicodeError, TypeError):
        raise ValidationError(f"{what}: an argument has characters or a type that cannot be sent") from None


@contextmanager
def usable_environment() -> Iterator[None]:
    """Turns what the environment says wrongly about proxies into an error of ours."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise ValidationError(f"the environment's proxy settings cannot be used: {error}") from error


def retry_after(value: Optional[str]) -> Optional[float]:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if not value:
        return None
    digits = value.strip()
    if digits.isascii() and digits.isdigit():
        return min(float(digits[:10]), 999_999_999.0)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError, OSError, LookupError):
        return None


class Limit:
    """Watches an answer's size and time while it comes in."""

    def __init__(self, max_bytes: int, total_timeout: Optional[float] = None) -> None:
        self._max = max_bytes
        self._size = 0
        self._deadline = None if total_timeout is None else time.monotonic() + total_timeout

    def announced(self, headers: httpx.Headers) -> None:
        """Refuses an answer that says beforehand that it is too large."""
        length = headers.get("content-length", "")
        if length.isdigit() and int(length[:18]) > self._max:
            raise self._too_large()

    def add(self, chunk: bytes) -> bytes:
        """Counts a chunk."""
        self._size += len(chunk)
        if self._size > self._max:
            raise self._too_large()
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise SandboxTimeoutError("the answer did not end in time")
        return chunk

    def _too_large(self) -> OutputTooLargeError:
        return OutputTooLargeError(f"the answer is larger than {self._max} bytes")


def must_be_whole(status_code: int, headers: httpx.Headers) -> None:
    """Refuses an answer that may be less or other than the file.

    One whose end is only the end of the connection: if that broke, nobody could tell. A part, or a compressed form,
    that was not asked for.
    """
    if status_code != 200:
        raise invalid_response(f"status {status_code} where a file should be", status_code)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise invalid_response("a compressed file, which was not asked for")
    if "content-length" not in headers and headers.get("transfer-encoding", "").lower() != "chunked":
        raise invalid_response("neither Content-Length nor chunks")


def ssl_context() -> ssl.SSLContext:
    """The TLS settings, loaded once: reading the certificates takes longer than most calls."""
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SUPERSERVE_CA_FILE")
    return _ssl_context(*(os.environ.get(name) or None for name in names))


@functools.lru_cache(maxsize=4)
def _ssl_context(
    cert_file: Optional[str], cert_dir: Optional[str], also_trusted: Optional[str]
) -> ssl.SSLContext:
    """SSL_CERT_FILE and SSL_CERT_DIR replace the usual authorities; SUPERSERVE_CA_FILE adds to them."""
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        raise ValidationError(f"SSL_CERT_FILE {cert_file!r:.200} holds no certificates: {error}") from error
    if also_trusted is not None:
        try:
            context.load_verify_locations(also_trusted)
        except OSError as error:
            raise ValidationError(f"SUPERSERVE_CA_FILE {also_trusted!r:.200} holds no certificates: {error}") from error
    return context
