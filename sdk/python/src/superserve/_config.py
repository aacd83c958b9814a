"""Where the server is and with which key: arguments first, then the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Optional
from urllib.parse import urlsplit

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
    key = (api_key if api_key is not None else os.environ.get("SUPERSERVE_API_KEY", "")).strip()
    if not key:
        raise AuthenticationError("no API key: pass api_key or set SUPERSERVE_API_KEY")
    if not (key.isascii() and key.isprintable()):
        raise AuthenticationError("the API key has characters that no key has")
    url = base_url if base_url is not None else os.environ.get("SUPERSERVE_BASE_URL") or DEFAULT_BASE_URL
    timeout = DEFAULT_REQUEST_TIMEOUT if request_timeout is None else request_timeout
    if not timeout > 0:
        raise ValidationError("request_timeout must be greater than 0")
    return Config(key, origin(url.strip(), "base_url"), timeout)


def origin(url: str, what: str) -> str:
    """url without a slash at its end, when it is one that requests can go to."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ValidationError(f"{what} must be an http or https address, not {url!r:.100}")
    return url.rstrip("/")
