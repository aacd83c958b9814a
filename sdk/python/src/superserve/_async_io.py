"""What differs between asyncio and blocking calls. ``_sync_io`` has the same names."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import IO, Any, Optional, TypeVar, Union

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from ._http import LIMITS, ssl_context, usable_environment
from ._upload import CHUNK_BYTES, as_bytes, slices
from ._websocket import LOGGER, MAX_MESSAGE_BYTES, Handshake, closed, translated_websocket

T = TypeVar("T")
TextCallback = Callable[[str], object]
UploadContent = Union[str, bytes, bytearray, memoryview, IO[bytes], Iterable[bytes], AsyncIterable[bytes]]

#: Where a connection can be used: a process and its event loop.
Place = tuple[int, asyncio.AbstractEventLoop]

sleep = asyncio.sleep
in_thread = asyncio.to_thread
Lock = asyncio.Lock


def here() -> Place:
    """This process and event loop."""
    return os.getpid(), asyncio.get_running_loop()


def is_gone(place: Place) -> bool:
    """Whether connections of that place are of no use any more."""
    return place[0] != os.getpid() or place[1].is_closed()


def new_client() -> httpx.AsyncClient:
    """A client with the shared TLS settings."""
    with usable_environment():
        return httpx.AsyncClient(verify=ssl_context(), limits=LIMITS)


async def finish(pieces: Optional[AsyncIterator[Any]]) -> None:
    """Brings a generator whose connection is closed to its end. Else the event loop would, in a task of its own."""
    try:
        if pieces is not None:
            async for _ in pieces:
                pass
    except Exception:  # that the connection is closed
        pass


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
        #: A message that came together with a cancellation.
        self._kept: list[Union[str, bytes]] = []

    async def send(self, message: Union[str, bytes]) -> None:
        """Sends one message; waits while the other side does not read."""
        with translated_websocket():
            await self._connection.send(message)

    async def send_json(self, message: Any) -> None:
        """Sends a text message."""
        await self.send(json.dumps(message))

    async def receive(self, timeout: Optional[float] = None) -> Union[str, bytes, None]:
        """The next message; None when timeout seconds have passed without one. Cancelling it loses none."""
        try:
            if self._kept:
                return self._kept.pop()
            if timeout is None:
                return await self._connection.recv()
            return await self._receive_within(timeout)
        except ConnectionClosed as error:
            raise closed(error) from error

    async def _receive_within(self, timeout: float) -> Union[str, bytes, None]:
        """Not by ``wait_for``: before Python 3.12 that loses a cancellation that comes together with the message."""
        reading = asyncio.ensure_future(self._connection.recv())
        try:
            await asyncio.wait({reading}, timeout=timeout)
        except asyncio.CancelledError:
            await _cancelled(reading)
            if not reading.cancelled() and reading.exception() is None:
                self._kept.append(reading.result())
            raise
        await _cancelled(reading)
        return None if reading.cancelled() else reading.result()

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancels a task, unless it has ended, and waits for its end."""
    task.cancel()
    await asyncio.wait({task})


class _Connect(connect):
    """Does not follow redirects: they would carry the access token to another host."""

    def process_redirect(self, exc: Exception) -> Union[Exception, str]:
        return exc


async def open_websocket(handshake: Handshake) -> AsyncWebSocket:
    """Opens a WebSocket."""
    with translated_websocket():
        connection = await _Connect(
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
