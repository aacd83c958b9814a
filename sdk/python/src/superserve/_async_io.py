"""What differs between asyncio and blocking calls. ``_sync_io`` has the same names."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import IO, Any, Optional, TypeVar, Union

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from ._http import ssl_context
from ._upload import CHUNK_BYTES, as_bytes, slices
from ._websocket import MAX_MESSAGE_BYTES, Handshake, closed, translated_websocket

T = TypeVar("T")
TextCallback = Callable[[str], object]
UploadContent = Union[str, bytes, bytearray, memoryview, IO[bytes], Iterable[bytes], AsyncIterable[bytes]]

sleep = asyncio.sleep
in_thread = asyncio.to_thread
Lock = asyncio.Lock


def new_client() -> httpx.AsyncClient:
    """A client with the shared TLS settings."""
    return httpx.AsyncClient(verify=ssl_context())


async def call_back(callback: Optional[Callable[[T], object]], value: T) -> None:
    """Calls a callback, and awaits what it returns when it is a coroutine function."""
    if callback is not None and value:
        result = callback(value)
        if inspect.isawaitable(result):
            await result


async def upload_chunks(content: UploadContent) -> AsyncIterator[bytes]:
    """The content of an upload in pieces. Reads of a file object happen in a thread."""
    if isinstance(content, (str, bytes, bytearray, memoryview)):
        for piece in slices(content):
            yield piece
    elif hasattr(content, "read"):
        while data := await asyncio.to_thread(content.read, CHUNK_BYTES):
            yield as_bytes(data)
    elif isinstance(content, AsyncIterable):
        async for data in content:
            yield as_bytes(data)
    else:
        for data in content:
            yield as_bytes(data)


class AsyncWebSocket:
    """A WebSocket with this package's errors."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, message: Union[str, bytes]) -> None:
        """Sends one message; waits while the other side does not read."""
        with translated_websocket():
            await self._connection.send(message)

    async def send_json(self, message: Any) -> None:
        """Sends a text message."""
        await self.send(json.dumps(message))

    async def receive(self, timeout: Optional[float] = None) -> Union[str, bytes, None]:
        """The next message; None when timeout seconds have passed without one."""
        try:
            if timeout is None:
                return await self._connection.recv()
            return await asyncio.wait_for(self._connection.recv(), timeout)
        except (asyncio.TimeoutError, TimeoutError):
            return None
        except ConnectionClosed as error:
            raise closed(error) from error

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()


async def open_websocket(handshake: Handshake) -> AsyncWebSocket:
    """Opens a WebSocket."""
    with translated_websocket():
        connection = await connect(
            handshake.url,
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
    return AsyncWebSocket(connection)


async def close_quietly(exc: Optional[BaseException], close: Callable[[], Any]) -> None:
    """Closes at the end of a ``with`` block; an error that is on its way already is not replaced."""
    try:
        await close()
    except Exception:
        if exc is None:
            raise


ExcType = Optional[type[BaseException]]
Exc = Optional[BaseException]
Trace = Optional[TracebackType]
