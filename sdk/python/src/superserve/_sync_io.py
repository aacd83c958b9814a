"""What differs between blocking calls and asyncio. ``_async_io`` has the same names."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import IO, Any, Optional, TypeVar, Union

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from ._http import LIMITS, ssl_context, usable_environment
from ._upload import CHUNK_BYTES, as_bytes, slices
from ._websocket import LOGGER, MAX_MESSAGE_BYTES, Handshake, closed, translated_websocket

T = TypeVar("T")
TextCallback = Callable[[str], object]
UploadContent = Union[str, bytes, bytearray, memoryview, IO[bytes], Iterable[bytes]]

#: Where a connection can be used: a process.
Place = int

sleep = time.sleep
here = os.getpid
Lock = threading.Lock


def is_gone(place: Place) -> bool:
    """Whether connections of that place are of no use any more."""
    return place != os.getpid()


def new_client() -> httpx.Client:
    """A client with the shared TLS settings."""
    with usable_environment():
        return httpx.Client(verify=ssl_context(), limits=LIMITS)


def finish(pieces: Optional[Iterator[Any]]) -> None:
    """Nothing to do: a generator that blocks ends when nobody refers to it any more."""


def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Calls a function that blocks for a while."""
    return function(*args)


def call_back(callback: Optional[Callable[[T], object]], value: T) -> None:
    """Calls a callback."""
    if callback is not None and value:
        callback(value)


def upload_chunks(content: UploadContent) -> Iterator[bytes]:
    """The content of an upload in pieces."""
    if isinstance(content, (str, bytes, bytearray, memoryview)):
        yield from slices(content)
    elif hasattr(content, "read"):
        while data := content.read(CHUNK_BYTES):
            yield as_bytes(data)
    else:
        for data in content:
            yield as_bytes(data)


class WebSocket:
    """A WebSocket with this package's errors."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def send(self, message: Union[str, bytes]) -> None:
        """Sends one message; waits while the other side does not read."""
        with translated_websocket():
            self._connection.send(message)

    def send_json(self, message: Any) -> None:
        """Sends a text message."""
        self.send(json.dumps(message))

    def receive(self, timeout: Optional[float] = None) -> Union[str, bytes, None]:
        """The next message; None when timeout seconds have passed without one."""
        try:
            return self._connection.recv(timeout)
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            raise closed(error) from error

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def open_websocket(handshake: Handshake) -> WebSocket:
    """Opens a WebSocket."""
    with translated_websocket():
        connection = connect(
            handshake.url,
            logger=LOGGER,
            subprotocols=[Subprotocol(name) for name in handshake.subprotocols],
            additional_headers=dict(handshake.headers),
            user_agent_header=handshake.user_agent,
            ssl=ssl_context() if handshake.url.startswith("wss:") else None,
            compression=None,
            open_timeout=handshake.timeout,
            # An answer to a ping waits behind output that nobody has read yet, so its absence says nothing.
            ping_timeout=None,
            close_timeout=2,
            max_size=MAX_MESSAGE_BYTES,
        )
    return WebSocket(connection)


def close_quietly(exc: Optional[BaseException], close: Callable[[], Any]) -> None:
    """Closes at the end of a ``with`` block; an error that is on its way already is not replaced."""
    try:
        close()
    except Exception:
        if exc is None:
            raise


ExcType = Optional[type[BaseException]]
Exc = Optional[BaseException]
Trace = Optional[TracebackType]
