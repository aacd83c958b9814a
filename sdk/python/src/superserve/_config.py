"""Where the server is and with which key: arguments first, then the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import urlsplit

from ._http import MAX_TIMEOUT
from .errors import AuthenticationError, ValidationError

DEFAULT_BASE_URL = "https://api.superserve.ai"
#: Seconds for one answer of the control plane.
DEFAULT_REQUEST_TIMEOUT = 60.0


@dataclass(frozen=True)
class Config:
    """What every call of the control plane needs."""

    api_key: str = field(repr=False)
    base_url: str
    request_timeout: float = DEFAULT_REQUEST_TIMEOUT


def resolve(
    api_key: Optional[str] = None, base_url: Optional[str] = None, request_timeout: Optional[float] = None
) -> Config:
    """The configuration; fails before any request when there is no usable key or address."""
    given = api_key if api_key is not None else os.environ.get("SUPERSERVE_API_KEY", "")
    if not isinstance(given, str):
        raise AuthenticationError("api_key must be a string")
    key = given.strip()
    if not key:
        raise AuthenticationError("no API key: pass api_key or set SUPERSERVE_API_KEY")
    if not (key.isascii() and key.isprintable()):
        raise AuthenticationError("the API key has characters that no key has")
    url = base_url if base_url is not None else os.environ.get("SUPERSERVE_BASE_URL") or DEFAULT_BASE_URL
    timeout = DEFAULT_REQUEST_TIMEOUT if request_timeout is None else request_timeout
    if not isinstance(timeout, (int, float)) or not timeout > 0:
        raise ValidationError("request_timeout must be a number greater than 0")
    return Config(key, origin(url, "base_url"), min(timeout, MAX_TIMEOUT))


def origin(url: object, what: str) -> str:
    """url without a slash at its end, when it is one that requests can go to. Errors do not quote it: it, or what was
    taken for it, may hold a secret."""
    try:
        parts = urlsplit(url.strip() if isinstance(url, str) else "")
        usable = parts.scheme in ("http", "https") and _is_host(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ValidationError(f"{what} must be an http or https address, such as http://localhost:8080")
    if "@" in parts.netloc:
        raise ValidationError(f"{what} must not have a user name or password")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def _is_host(name: Optional[str]) -> bool:
    """Whether it can be looked up; what no name can be would fail in another way in each library."""
    if not name or any(c.isspace() for c in name):
        return False
    return all(0 < len(label) < 64 for label in name.rstrip(".").split("."))
