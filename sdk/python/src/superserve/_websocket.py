"""What both clients share about WebSockets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProxyError,
    WebSocketException,
)

from ._http import retry_after
from .errors import (
    SandboxConnectionError,
    SandboxTimeoutError,
    SuperserveError,
    ValidationError,
    error_from_answer,
    invalid_response,
)

#: The longest message of the protocol is 1 MiB and the byte that names the stream.
MAX_MESSAGE_BYTES = (1 << 20) + 1
#: This plus an HTTP status is the close code of an error; the reason is ``<code>: <message>``.
CLOSE_ERROR_BASE = 4000
EXEC_PROTOCOL = "superserve.exec.v1"
#: At DEBUG the library writes down headers, in which the access token is, and all input and output. So DEBUG is off
#: here, also where a program turns it on for all.
LOGGER = logging.getLogger("superserve.session")
LOGGER.setLevel(logging.INFO)


@dataclass(frozen=True)
class Handshake:
    """What opens a WebSocket."""

    url: str
    headers: Mapping[str, str]
    subprotocols: Sequence[str] = field(repr=False)
    user_agent: str
    #: Seconds.
    timeout: float


@contextmanager
def translated_websocket() -> Iterator[None]:
    """Turns the library's errors into ours."""
    try:
        yield
    except ConnectionClosed as error:
        raise closed(error) from error
    except InvalidStatus as error:
        response = error.response
        wait = retry_after(response.headers.get("Retry-After"))
        raise error_from_answer(response.status_code, bytes(response.body or b""), wait) from error
    except (InvalidProxy, ImportError):
        # Left out: it quotes the proxy's address, which may hold a password.
        raise ValidationError("the environment's proxy settings cannot be used for a session") from None
    except ProxyError as error:
        raise SandboxConnectionError(f"the proxy did not open a session: {error}") from error
    except InvalidURI as error:
        raise ValidationError(f"no address for a session: {error}") from error
    except InvalidHandshake as error:
        raise invalid_response(f"no WebSocket: {error}") from error
    except (TimeoutError, asyncio.TimeoutError) as error:  # two classes before Python 3.11
        raise SandboxTimeoutError("the session was not opened in time") from error
    except (OSError, EOFError, WebSocketException) as error:
        raise SandboxConnectionError(f"the session could not be opened: {error}") from error


def closed(error: ConnectionClosed) -> SuperserveError:
    """The error of a connection that the server closed before the command's end."""
    frame = error.rcvd
    if frame is None:
        return SandboxConnectionError("the connection to the session broke")
    if 4400 <= frame.code < 4600:
        code, _, message = frame.reason.partition(": ")
        body = json.dumps({"error": {"code": code, "message": message or code}})
        return error_from_answer(frame.code - CLOSE_ERROR_BASE, body.encode())
    reason = f": {frame.reason}" if frame.reason else ""
    return SandboxConnectionError(f"the server closed the session ({frame.code}){reason}")
