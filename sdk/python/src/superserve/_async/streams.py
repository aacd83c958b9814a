"""Answers that are read piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Optional

import httpx

from .._async_io import Exc, ExcType, Trace, close_quietly
from .._http import Call, must_be_whole
from .._sse import EventDecoder
from ..errors import invalid_response
from ..types import FileEvent, Json, maybe, take
from .dataplane import AsyncDataPlane
from .transport import checked_chunks, end


async def events(what: str, response: httpx.Response) -> AsyncIterator[Json]:
    """The events of an answer. It ends when the connection does; whether that is too early is for the caller to say."""
    kind = response.headers.get("content-type", "")
    if not kind.lower().startswith("text/event-stream"):
        raise invalid_response(f"no event stream but {kind[:100] or 'no content type'}", response.status_code)
    decoder = EventDecoder()
    async for chunk in checked_chunks(what, response):
        for event in decoder.feed(chunk):
            yield event


class AsyncFileStream:
    """A download in pieces. Opened by ``async with`` or by the first piece; closed at the end of either.

    Whoever stops in the middle without ``async with`` calls ``close``.
    """

    def __init__(self, plane: AsyncDataPlane, call: Call) -> None:
        self._plane = plane
        self._call = call
        self._response: Optional[httpx.Response] = None
        self._chunks: Optional[AsyncIterator[bytes]] = None
        self._ended = False
        #: Bytes of the whole file; None before it is opened and when the server does not know.
        self.size: Optional[int] = None

    async def __aenter__(self) -> AsyncFileStream:
        await self._open()
        return self

    async def __aexit__(self, kind: ExcType, exc: Exc, trace: Trace) -> None:
        await close_quietly(exc, self.close)

    def __aiter__(self) -> AsyncFileStream:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._chunks is None:
            await self._open()
        assert self._chunks is not None
        try:
            return await self._chunks.__anext__()
        except BaseException:  # the end, an error or a cancellation
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the download."""
        self._ended = True
        response, self._response = self._response, None
        if response is not None:
            await end(response, self._chunks)

    async def _open(self) -> None:
        if self._ended or self._response is not None:
            return
        self._response = await self._plane.open(self._call)
        try:
            must_be_whole(self._response.status_code, self._response.headers)
        except BaseException:
            await self.close()
            raise
        length = self._response.headers.get("content-length", "")
        self.size = int(length) if length.isdigit() else None
        self._chunks = checked_chunks(f"GET {self._call.url}", self._response)


class AsyncWatch:
    """Changes of files as they happen. It is in place once ``async with`` or the first event has begun.

    It ends by itself only when what it watches is gone. A connection that breaks is an error.
    """

    def __init__(self, plane: AsyncDataPlane, call: Call) -> None:
        self._plane = plane
        self._call = call
        self._response: Optional[httpx.Response] = None
        self._events: Optional[AsyncIterator[Json]] = None
        self._ended = False

    async def __aenter__(self) -> AsyncWatch:
        await self._open()
        return self

    async def __aexit__(self, kind: ExcType, exc: Exc, trace: Trace) -> None:
        await close_quietly(exc, self.close)

    def __aiter__(self) -> AsyncWatch:
        return self

    async def __anext__(self) -> FileEvent:
        if self._ended:
            raise StopAsyncIteration
        await self._open()
        assert self._events is not None
        try:
            event = await self._events.__anext__()
            return FileEvent(take(event, "event", str), maybe(event, "path", str) or "")
        except BaseException:  # the end, an error or a cancellation
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the watch."""
        self._ended = True
        response, self._response = self._response, None
        if response is not None:
            await end(response, self._events)

    async def _open(self) -> None:
        if not self._ended and self._response is None:
            self._response = await self._plane.open(self._call)
            self._events = events(f"GET {self._call.url}", self._response)
