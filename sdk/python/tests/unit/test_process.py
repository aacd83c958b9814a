"""commands.spawn and attach against a server of sessions that plays tricks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

import superserve
from superserve import AsyncSandbox, CommandResult, SandboxConnectionError
from support import KEY, SANDBOX_ID, Driver, HostileServer, answer, error, open_sockets

OPENED = {"session_id": "s-1", "pid": 7}
DONE = {"exit_code": 3, "finished": True}


class SessionServer:
    """Lets a test say what happens after the first message."""

    def __init__(self) -> None:
        self.first: list[Any] = []
        self.requests: list[Any] = []
        self.script: Callable[[ServerConnection], None] = lambda _: None
        self.ended = threading.Semaphore(0)
        self._server: Server = serve(
            self._handle,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("superserve.exec.v1")],
            max_size=None,
            open_timeout=60,  # a machine that is busy with other tests must not fail this one
            close_timeout=1,
        )
        self.url = f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()

    def _handle(self, connection: ServerConnection) -> None:
        self.requests.append(connection.request)
        try:
            self.first.append(json.loads(connection.recv()))
            self.script(connection)
        except ConnectionClosed:
            pass
        finally:
            connection.close()
            self.ended.release()


@pytest.fixture
def sessions() -> Iterator[SessionServer]:
    found = SessionServer()
    yield found
    found.close()


@pytest.fixture
def box(driver: Driver, server: HostileServer, sessions: SessionServer) -> Iterator[Any]:
    server.on("POST /sandboxes", answer(201, server.sandbox(data_plane_url=sessions.url)))
    found = driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url, request_timeout=2))
    yield found
    driver.do(found.close())


def say(*messages: Any) -> Callable[[ServerConnection], None]:
    """Sends objects as text and bytes as they are, and closes."""

    def script(connection: ServerConnection) -> None:
        for message in messages:
            connection.send(message if isinstance(message, (bytes, str)) else json.dumps(message))

    return script


def silent(connection: ServerConnection) -> None:
    """Says nothing until the client goes."""
    connection.recv()


def test_spawn(driver: Driver, sessions: SessionServer, box: Any) -> None:
    sessions.script = say(OPENED, b"\1out\n\xc3", b"\2err", b"\1\xa9", {"new": "note"}, DONE)
    out: list[str] = []
    process = driver.do(box.commands.spawn("c", args=["a"], cwd="/w", env={"K": "v"}, user="u", on_stdout=out.append))
    assert (process.pid, process.session_id, process.exit_code) == (7, "s-1", None)
    assert driver.do(process.wait()) == CommandResult("out\né", "err", 3, False)
    assert (out, process.exit_code, process.offset) == (["out\n", "é"], 3, 9)
    assert driver.do(process.wait()).exit_code == 3
    assert driver.each(process) == []
    driver.do(process.kill())
    assert sessions.first == [{"command": "c", "args": ["a"], "working_dir": "/w", "env": {"K": "v"}, "user": "u"}]
    headers = sessions.requests[0].headers
    assert headers["X-Superserve-Sandbox-Id"] == SANDBOX_ID
    assert headers["Sec-WebSocket-Protocol"] == "superserve.exec.v1, token.token-1"
    assert "X-API-Key" not in headers


def test_iteration(driver: Driver, sessions: SessionServer, box: Any) -> None:
    sessions.script = say(OPENED, b"\1a", b"\2b", DONE)
    process = driver.do(box.commands.spawn("c"))
    assert [(o.stream, o.data, o.text) for o in driver.each(process)] == [("stdout", b"a", "a"), ("stderr", b"b", "b")]
    assert driver.do(process.wait()) == CommandResult("a", "b", 3, False)


def test_input_and_signals(driver: Driver, sessions: SessionServer, box: Any) -> None:
    got: list[Any] = []

    def script(connection: ServerConnection) -> None:
        connection.send(json.dumps(OPENED))
        size = 0
        while size < 100_003:
            got.append(connection.recv())
            size += len(got[-1]) - 1
        got.extend([connection.recv(), connection.recv()])
        connection.send(json.dumps(DONE))

    sessions.script = script
    process = driver.do(box.commands.spawn("c"))
    driver.do(process.write_stdin("ä\n"))
    driver.do(process.write_stdin(b"x" * 100_000))
    driver.do(process.kill("SIGINT"))
    driver.do(process.close_stdin())
    driver.do(process.close_stdin())
    assert driver.do(process.wait()).exit_code == 3
    assert all(message[:1] == b"\0" and len(message) <= 65537 for message in got[:-2])
    assert b"".join(message[1:] for message in got[:-2]) == "ä\n".encode() + b"x" * 100_000
    assert [json.loads(m) for m in got[-2:]] == [{"type": "signal", "name": "SIGINT"}, {"type": "stdin_close"}]
    with pytest.raises(superserve.ValidationError):
        driver.do(process.write_stdin("more"))


def test_input_for_a_command_that_has_ended(driver: Driver, sessions: SessionServer, box: Any) -> None:
    sessions.script = say(OPENED, b"\1a", DONE)
    calls: list[Callable[[Any], Any]] = [lambda p: p.write_stdin("x"), lambda p: p.close_stdin(), lambda p: p.kill()]
    for call in calls:
        process = driver.do(box.commands.spawn("c"))
        assert sessions.ended.acquire(timeout=5)
        for _ in range(3):
            driver.do(call(process))
        assert driver.do(process.wait()) == CommandResult("a", "", 3, False)


def test_a_callback_that_answers_a_command_that_has_ended(driver: Driver, sessions: SessionServer, box: Any) -> None:
    sessions.script = say(OPENED, b"\1name? ", b"\1bye", DONE)
    made: list[Any] = []

    def reply(_: str) -> None:
        sessions.ended.acquire(timeout=5)
        made[0].write_stdin("x" * 100_000)

    async def reply_async(_: str) -> None:
        await asyncio.to_thread(sessions.ended.acquire, timeout=5)  # meanwhile the loop reads what was sent
        await made[0].write_stdin("x" * 100_000)

    made.append(driver.do(box.commands.spawn("c", on_stdout=reply_async if driver.kind == "async" else reply)))
    waiting = threading.Thread(target=lambda: made.append(driver.do(made[0].wait())), daemon=True)
    waiting.start()
    waiting.join(20)
    assert made[1:] == [CommandResult("name? bye", "", 3, False)]


@pytest.mark.parametrize("data", [5, None, ["x"]])
def test_input_that_is_none(driver: Driver, sessions: SessionServer, box: Any, data: Any) -> None:
    sessions.script = say(OPENED, DONE)
    process = driver.do(box.commands.spawn("c"))
    with pytest.raises(superserve.ValidationError):
        driver.do(process.write_stdin(data))
    driver.do(process.detach())


def test_input_after_a_cut(driver: Driver, sessions: SessionServer, box: Any) -> None:
    sessions.script = say(OPENED, b"\1a")
    process = driver.do(box.commands.spawn("c"))
    assert sessions.ended.acquire(timeout=5)
    with pytest.raises(SandboxConnectionError):
        driver.do(process.kill())
        driver.do(process.kill())


def test_read_output_does_not_wait(driver: Driver, sessions: SessionServer, box: Any) -> None:
    more = threading.Event()

    def script(connection: ServerConnection) -> None:
        say(OPENED, b"\1a")(connection)
        more.wait(10)
        say(b"\1b", DONE)(connection)

    sessions.script = script
    process = driver.do(box.commands.spawn("c"))
    while not (so_far := driver.do(process.read_output())).stdout:
        pass
    assert so_far == CommandResult("a", "", -1, False)
    more.set()
    assert driver.do(process.wait()) == CommandResult("ab", "", 3, False)
    assert driver.do(process.read_output()) == CommandResult("ab", "", 3, False)


def test_attach(driver: Driver, sessions: SessionServer, box: Any) -> None:
    lost = {"type": "truncated", "bytes": 10, "offset": 15}
    sessions.script = say(OPENED, lost, b"\1abc", DONE)
    process = driver.do(box.commands.attach("s-1", offset=5))
    assert process.offset == 5
    assert driver.do(process.wait()) == CommandResult("abc", "", 3, True)
    assert (process.offset, process.lost) == (18, 10)
    assert sessions.first == [{"attach": "s-1", "offset": 5}]


@pytest.mark.parametrize("messages", [[OPENED], [OPENED, b"\1half"], []])
def test_a_session_that_is_cut(driver: Driver, sessions: SessionServer, box: Any, messages: list[Any]) -> None:
    sessions.script = say(*messages)
    with pytest.raises(SandboxConnectionError):
        driver.do(driver.do(box.commands.spawn("c")).wait())
    assert sessions.ended.acquire(timeout=5)


@pytest.mark.parametrize(
    "messages",
    [
        ["{"],
        ["[]"],
        [b"\1x"],
        ['{"session_id":7,"pid":1}'],
        ['{"session_id":"s"}'],
        [OPENED, b""],
        [OPENED, b"\7x"],
        [OPENED, "{"],
        [OPENED, '{"finished":true,"exit_code":"0"}'],
        [OPENED, '{"finished":true}'],
    ],
)
def test_strange_messages(driver: Driver, sessions: SessionServer, box: Any, messages: list[Any]) -> None:
    sessions.script = say(*messages)
    with pytest.raises(superserve.ServerError):
        driver.do(driver.do(box.commands.spawn("c")).wait())
    assert sessions.ended.acquire(timeout=5)


def test_a_message_that_is_too_long(driver: Driver, sessions: SessionServer, box: Any) -> None:
    sessions.script = say(OPENED, b"\1" + b"x" * (1 << 20), b"\1" + b"x" * (1 << 20) + b"y", DONE)
    process = driver.do(box.commands.spawn("c"))
    assert len(driver.next(process).data) == 1 << 20
    with pytest.raises(SandboxConnectionError):
        driver.do(process.wait())


@pytest.mark.parametrize(("status", "name"), [(404, "NotFoundError"), (400, "ValidationError"), (503, "ServerError")])
def test_an_error_as_a_close_code(driver: Driver, sessions: SessionServer, box: Any, status: int, name: str) -> None:
    sessions.script = lambda connection: connection.close(4000 + status, "some_code: it says why")
    with pytest.raises(superserve.SuperserveError, match="it says why") as caught:
        driver.do(box.commands.attach("none"))
    assert (type(caught.value).__name__, caught.value.status_code, caught.value.code) == (name, status, "some_code")


def test_the_server_never_begins(driver: Driver, sessions: SessionServer, box: Any) -> None:
    sessions.script = silent
    with pytest.raises(SandboxConnectionError):
        driver.do(box.commands.spawn("c"))
    assert sessions.ended.acquire(timeout=5)


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        (error(404, "not_found"), "NotFoundError"),
        (answer(200, b"<html>"), "ServerError"),
        (error(503, "unavailable"), "ServerError"),
    ],
)
def test_no_websocket(driver: Driver, server: HostileServer, sandbox: Any, reply: Any, name: str) -> None:
    server.on("GET /exec/connect", reply)
    with pytest.raises(getattr(superserve, name)):
        driver.do(sandbox.commands.spawn("c"))
    driver.do(sandbox.close())
    server.wait_for_no_connections()


def test_an_old_token(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("GET /exec/connect", error(401, "unauthorized"), error(404, "not_found"))
    server.on(f"GET /sandboxes/{SANDBOX_ID}", answer(200, server.sandbox(access_token="token-2")))
    with pytest.raises(superserve.NotFoundError):
        driver.do(sandbox.commands.spawn("c"))
    assert server.requests[-1].headers["sec-websocket-protocol"] == "superserve.exec.v1, token.token-2"


def flood(sessions: SessionServer, got: list[Any]) -> None:
    """Output until a signal comes; what the client says is kept in got."""
    killed = threading.Event()

    def script(connection: ServerConnection) -> None:
        connection.send(json.dumps(OPENED))

        def listen() -> None:
            try:
                while True:
                    got.append(connection.recv())
                    killed.set()
            except ConnectionClosed:
                pass

        threading.Thread(target=listen, daemon=True).start()
        while not killed.is_set():
            connection.send(b"\1" + b"x" * 65536)
        connection.send(json.dumps({"exit_code": 137, "finished": True}))

    sessions.script = script


def test_detaching_from_a_flood(driver: Driver, sessions: SessionServer, box: Any) -> None:
    got: list[Any] = []
    flood(sessions, got)
    process = driver.do(box.commands.spawn("c"))
    driver.next(process)
    driver.do(process.detach())
    assert sessions.ended.acquire(timeout=10)
    assert got == []
    with pytest.raises(SandboxConnectionError):
        driver.do(process.wait())


def test_leaving_the_block_kills(driver: Driver, sessions: SessionServer, box: Any) -> None:
    got: list[Any] = []
    flood(sessions, got)
    process = driver.enter(driver.do(box.commands.spawn("c")))
    driver.next(process)
    driver.exit(process, KeyError())
    assert process.exit_code == 137
    assert [json.loads(m) for m in got] == [{"type": "signal", "name": "SIGKILL"}]


@pytest.mark.parametrize("messages", [[OPENED], [OPENED, b"\1a"], [OPENED, DONE]])
def test_leaving_the_block_after_the_end(
    driver: Driver, sessions: SessionServer, box: Any, messages: list[Any]
) -> None:
    sessions.script = say(*messages)
    process = driver.enter(driver.do(box.commands.spawn("c")))
    assert sessions.ended.acquire(timeout=5)
    driver.exit(process)


def test_output_that_nobody_reads_is_not_piled_up(driver: Driver, sessions: SessionServer, box: Any) -> None:
    sent = 0

    def script(connection: ServerConnection) -> None:
        nonlocal sent
        connection.send(json.dumps(OPENED))
        while True:
            connection.send(b"\1" + b"x" * 65536)
            sent += 65536

    sessions.script = script
    process = driver.do(box.commands.spawn("c"))
    before = -1
    while before != sent:  # until it stands still
        before = sent
        driver.do(asyncio.sleep(0.3)) if driver.kind == "async" else threading.Event().wait(0.3)
    assert 0 < sent < 64 << 20
    driver.do(process.detach())


def test_cancelling_wait_keeps_the_process(server: HostileServer, sessions: SessionServer) -> None:
    server.on("POST /sandboxes", answer(201, server.sandbox(data_plane_url=sessions.url)))
    more = threading.Event()
    got: list[Any] = []

    def script(connection: ServerConnection) -> None:
        say(OPENED, b"\1a")(connection)
        more.wait(10)
        say(b"\1b", DONE)(connection)
        got.extend(connection)

    sessions.script = script

    async def run() -> None:
        box = await AsyncSandbox.create("n", api_key=KEY, base_url=server.url)
        process = await box.commands.spawn("c")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 0.2)
        more.set()
        assert await process.wait() == CommandResult("ab", "", 3, False)
        await box.kill()

    before = open_sockets()
    asyncio.run(run())
    assert sessions.ended.acquire(timeout=5)
    assert got == []
    assert open_sockets() <= before + 1  # the other end, which is in this process


def test_cancelling_spawn_closes_the_connection(server: HostileServer, sessions: SessionServer) -> None:
    server.on("POST /sandboxes", answer(201, server.sandbox(data_plane_url=sessions.url)))
    sessions.script = silent

    async def run() -> None:
        box = await AsyncSandbox.create("n", api_key=KEY, base_url=server.url)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(box.commands.spawn("c"), 0.2)
        await box.kill()

    asyncio.run(run())
    assert sessions.ended.acquire(timeout=5)
