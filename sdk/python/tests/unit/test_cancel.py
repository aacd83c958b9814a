"""Cancelling in the middle leaves no connection behind and leaves the client usable."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from superserve import AsyncSandbox
from support import KEY, HostileServer, Request, answer, open_sockets


def started_then_silent(server: HostileServer, head: bytes, first: bytes) -> Any:
    """Sends the beginning of an answer and waits until the client goes."""

    def reply(connection: socket.socket, _: Request) -> None:
        connection.sendall(head + first)
        while connection.recv(1):
            pass
        raise ConnectionAbortedError

    return reply


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'13\r\ndata: {"stdout":"a"}\n\n\r\n'.replace(b"13", b"%x" % len(b'data: {"stdout":"a"}\n\n'))
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


async def read_all(stream: Any) -> None:
    """Reads to the end."""
    async for _ in stream:
        pass


CASES: dict[str, tuple[str, bytes, bytes, Callable[[Any], Any]]] = {
    "exec before the answer": ("POST /exec", b"", b"", lambda s: s.commands.run("c")),
    "exec within the answer": ("POST /exec", LENGTH, b"{", lambda s: s.commands.run("c")),
    "stream": ("POST /exec/stream", CHUNKED, EVENT, lambda s: s.commands.run("c", on_stdout=lambda _: None)),
    "read": ("GET /files", LENGTH, b"half", lambda s: s.files.read("/x")),
    "read_stream": ("GET /files", LENGTH, b"half", lambda s: read_all(s.files.read_stream("/x"))),
    "watch": ("GET /files/watch", CHUNKED, b"", lambda s: read_all(s.files.watch("/x"))),
    "get_info": ("GET /sandboxes/7a3f2b8c-0000-4000-8000-000000000001", b"", b"", lambda s: s.get_info()),
}


@pytest.mark.parametrize("how", ["cancel", "wait_for"])
@pytest.mark.parametrize("case", CASES)
def test_cancelling(server: HostileServer, case: str, how: str) -> None:
    route, head, first, call = CASES[case]
    server.on(route, started_then_silent(server, head, first))

    async def run() -> None:
        sandbox = await AsyncSandbox.create("n", api_key=KEY, base_url=server.url)
        before = open_sockets()
        if how == "wait_for":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call(sandbox), 0.2)
        else:
            task = asyncio.ensure_future(call(sandbox))
            while not server.seen(route):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert open_sockets() <= before
        assert len(server.seen(route)) == 1
        assert server.seen("DELETE /sandboxes/" + sandbox.id) == []
        server.on("POST /exec", answer(200, {"stdout": "", "stderr": "", "exit_code": 0}))
        assert (await sandbox.commands.run("c")).exit_code == 0
        await sandbox.kill()

    before = open_sockets()
    asyncio.run(run())
    server.wait_for_no_connections()
    assert open_sockets() <= before


def test_cancelling_create(server: HostileServer) -> None:
    server.on("POST /sandboxes", started_then_silent(server, b"", b""))

    async def run() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(AsyncSandbox.create("n", api_key=KEY, base_url=server.url), 0.2)

    asyncio.run(run())
    server.wait_for_no_connections()


def test_cancelling_an_upload(server: HostileServer) -> None:
    async def run() -> None:
        sandbox = await AsyncSandbox.create("n", api_key=KEY, base_url=server.url)
        begun = asyncio.Event()

        async def source() -> Any:
            yield b"a"
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(sandbox.files.write("/x", source()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sandbox.kill()

    before = open_sockets()
    asyncio.run(run())
    server.wait_for_no_connections()
    assert open_sockets() <= before


def test_a_cancelled_block_still_kills(server: HostileServer) -> None:
    async def run() -> None:
        inside = asyncio.Event()

        async def block() -> None:
            async with await AsyncSandbox.create("n", api_key=KEY, base_url=server.url):
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(block())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert len(server.seen("DELETE /sandboxes/7a3f2b8c-0000-4000-8000-000000000001")) == 1
    server.wait_for_no_connections()
