"""One sandbox in several threads, processes and event loops; what is left behind."""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import superserve
from superserve import AsyncSandbox, Sandbox, SandboxConnectionError
from superserve._async_io import AsyncWebSocket
from support import KEY, SANDBOX_ID, Driver, HostileServer, Request, answer, events

DONE = {"exit_code": 0, "finished": True}
RAN = answer(200, {"stdout": "", "stderr": "", "exit_code": 0})

FORK = """
import os, sys
from superserve import Sandbox
sandbox = Sandbox.create("n", api_key="k", base_url=sys.argv[1])
sandbox.commands.run("parent")
child = os.fork()
if child == 0:
    sandbox.commands.run("child")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
sandbox.commands.run("parent")
sandbox.kill()
"""


def test_a_forked_child_does_not_share_connections(server: HostileServer) -> None:
    peers: dict[str, set[Any]] = {"parent": set(), "child": set()}

    def reply(connection: socket.socket, request: Request) -> None:
        peers[request.json()["command"]].add(connection.getpeername())
        RAN(connection, request)

    server.on("POST /exec", reply)
    source = Path(superserve.__file__).parent.parent
    subprocess.run([sys.executable, "-c", FORK, server.url], check=True, env={"PYTHONPATH": str(source)})
    assert len(peers["parent"]) == len(peers["child"]) == 1
    assert peers["parent"] != peers["child"]


# Nobody can close the first loop's connection in the second.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_event_loop_after_the_other(server: HostileServer) -> None:
    server.on("POST /exec", RAN)
    sandbox = asyncio.run(AsyncSandbox.create("n", api_key=KEY, base_url=server.url))
    for _ in range(2):
        assert asyncio.run(sandbox.commands.run("c")).exit_code == 0
    asyncio.run(sandbox.kill())
    gc.collect()


def test_threads_that_begin_together_share_a_client(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = importlib.import_module("superserve._sync.transport")
    make, made, together = transport.new_client, [], threading.Barrier(4)

    def slowly() -> Any:
        together.wait(5)
        made.append(make())
        return made[-1]

    server.on("POST /exec", RAN)
    sandbox = Sandbox.create("n", api_key=KEY, base_url=server.url)
    sandbox.close()
    monkeypatch.setattr(transport, "new_client", slowly)
    threads = [threading.Thread(target=sandbox.commands.run, args=("c",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    sandbox.close()
    server.wait_for_no_connections()


def test_closing_while_another_thread_calls(
    driver: Driver, server: HostileServer, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (client,) = sandbox._transport._clients.values()
    driver.do(sandbox.close())
    monkeypatch.setattr(sandbox._transport, "_client", lambda: client)
    with pytest.raises(SandboxConnectionError, match="closed meanwhile"):
        driver.do(sandbox.pause())


def test_streams_do_not_use_up_the_connections(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    def endless(connection: socket.socket, _: Request) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        connection.recv(1)

    server.on("GET /files", endless)
    streams = [driver.enter(sandbox.files.read_stream("/x")) for _ in range(101)]
    assert driver.do(sandbox.get_info()).id == SANDBOX_ID
    for stream in streams:
        driver.exit(stream)
    driver.do(sandbox.close())
    server.wait_for_no_connections()


async def first_event(sandbox: AsyncSandbox) -> None:
    async with sandbox.files.watch("/x") as watch:
        await watch.__anext__()


async def first_piece(sandbox: AsyncSandbox) -> None:
    async with sandbox.files.read_stream("/x") as stream:
        await stream.__anext__()


async def too_much(sandbox: AsyncSandbox) -> None:
    with pytest.raises(superserve.OutputTooLargeError):
        await sandbox.files.read("/x", max_bytes=10)


LEAVERS: list[Callable[[AsyncSandbox], Any]] = [
    lambda sandbox: sandbox.commands.run("c", on_stdout=lambda _: None),
    first_event,
    first_piece,
    too_much,
]


@pytest.mark.parametrize("leave", LEAVERS)
def test_no_task_is_left(server: HostileServer, leave: Callable[[AsyncSandbox], Any]) -> None:
    pieces = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\naaaaa\r\n" * 100

    def flood(connection: socket.socket, _: Request) -> None:
        connection.sendall(pieces)
        connection.recv(1)

    server.on("POST /exec/stream", events({"stdout": "a"}, DONE, b": more\n\n"))
    server.on("GET /files/watch", events({"event": "create", "path": "/x"}, b": more\n\n"))
    server.on("GET /files", flood)

    async def run() -> None:
        sandbox = await AsyncSandbox.create("n", api_key=KEY, base_url=server.url)
        before = asyncio.all_tasks()
        await leave(sandbox)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        await sandbox.close()

    asyncio.run(run())
    server.wait_for_no_connections()


class Messages:
    """The connection under a session, whose next message comes when the test says so."""

    def __init__(self) -> None:
        self.next: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def recv(self) -> str:
        return await self.next


def test_a_cancellation_that_comes_with_a_message_loses_neither() -> None:
    async def run() -> None:
        connection: Any = Messages()
        session = AsyncWebSocket(connection)
        task = asyncio.ensure_future(session.receive(60))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.next.set_result("message")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.receive(60) == "message"

    asyncio.run(run())
