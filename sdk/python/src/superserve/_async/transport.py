"""HTTP with retries, bounds and typed errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Optional, TypeVar

import httpx

from .._async_io import Place, UploadContent, finish, here, is_gone, new_client, sleep, upload_chunks
from .._config import Config
from .._http import (
    MAX_ERROR_BYTES,
    Answer,
    Attempt,
    Call,
    Limit,
    must_be_whole,
    retry_after,
    translated,
    unsendable,
)
from .._upload import size_of
from .._version import __version__
from ..errors import SandboxConnectionError, SuperserveError, error_from_answer

T = TypeVar("T")

USER_AGENT = f"superserve-python/{__version__}"


class AsyncTransport:
    """Connections to the server. They are opened when needed, also after ``close``.

    They belong to a process and an event loop: a forked child that went on with its parent's would read its answers.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._clients: dict[Place, httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Closes all connections."""
        self._forget()
        client = self._clients.pop(here(), None)
        if client is not None:
            await client.aclose()

    def _forget(self) -> None:
        """Drops what a forked child or a later event loop can neither use nor close."""
        for place in list(self._clients):
            if is_gone(place):
                self._clients.pop(place, None)

    def _client(self) -> httpx.AsyncClient:
        client = self._clients.get(here())
        if client is None:
            self._forget()
            # Of several threads one has its client kept; those of the others have no connections yet.
            client = self._clients.setdefault(here(), new_client())
        return client

    async def request(self, call: Call) -> Answer:
        """Sends a request and reads the whole answer. GET and DELETE are tried again."""

        async def once() -> Answer:
            return await self._whole(call, await self._send(call))

        attempt = Attempt(call.method)
        try:
            return await self._retried(attempt, once)
        except SuperserveError as error:
            if call.method == "DELETE" and attempt.already_deleted(error):
                return Answer(204, httpx.Headers(), b"")
            raise

    async def open(self, call: Call) -> httpx.Response:
        """Sends a request and returns when the head of a good answer is there. The caller closes it."""

        async def once() -> httpx.Response:
            return await self._send(call)

        return await self._retried(Attempt(call.method), once)

    async def upload(self, call: Call, content: UploadContent) -> Answer:
        """Sends content as the body, once."""
        return await self._whole(call, await self._send(call, content))

    async def _retried(self, attempt: Attempt, once: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await once()
            except SuperserveError as error:
                delay = attempt.delay(error)
                if delay is None:
                    raise
            await sleep(delay)

    async def _send(self, call: Call, content: Optional[UploadContent] = None) -> httpx.Response:
        client = self._client()
        headers = {"User-Agent": USER_AGENT, **call.request_headers()}
        body: object = call.body
        if content is not None:
            body = upload_chunks(content)
            headers["Content-Type"] = call.content_type
            if (size := size_of(content)) is not None:
                headers["Content-Length"] = str(size)
        what = f"{call.method} {call.url}"
        with translated(what), unsendable(what):
            request = client.build_request(
                call.method,
                call.url,
                params=list(call.query) or None,
                headers=headers,
                content=body,  # type: ignore[arg-type]
                timeout=call.timeout(),
            )
        try:
            with translated(what):
                response = await client.send(request, stream=True, follow_redirects=False)
        except RuntimeError as error:
            if not client.is_closed:
                raise
            raise SandboxConnectionError(f"{what}: the connections were closed meanwhile") from error
        if 200 <= response.status_code < 300:
            return response
        wait = retry_after(response.headers.get("retry-after"))
        raise error_from_answer(response.status_code, await self._detail(call, response), wait)

    async def _detail(self, call: Call, response: httpx.Response) -> bytes:
        """The body of an error, or what came of it: the status alone says enough to fail."""
        limit = Limit(MAX_ERROR_BYTES, call.total_timeout or call.idle_timeout)
        found = bytearray()
        chunks = checked_chunks(f"{call.method} {call.url}", response)
        try:
            async for chunk in chunks:
                found += limit.add(chunk)
        except SuperserveError:
            pass
        finally:
            await end(response, chunks)
        return bytes(found)

    async def _whole(self, call: Call, response: httpx.Response) -> Answer:
        limit = Limit(call.max_bytes, call.total_timeout)
        chunks = checked_chunks(f"{call.method} {call.url}", response)
        try:
            if call.needs_whole:
                must_be_whole(response.status_code, response.headers)
            limit.announced(response.headers)
            body = b"".join([limit.add(chunk) async for chunk in chunks])
        finally:
            await end(response, chunks)
        return Answer(response.status_code, response.headers, body)


async def checked_chunks(what: str, response: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes of an answer as they come."""
    with translated(what):
        async for chunk in response.aiter_raw():
            yield chunk


async def end(response: httpx.Response, pieces: Optional[AsyncIterator[Any]]) -> None:
    """Closes an answer, however far it was read."""
    await response.aclose()
    await finish(pieces)
