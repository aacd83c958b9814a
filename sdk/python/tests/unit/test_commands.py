"""commands.run: plain and streamed."""

from __future__ import annotations

import socket
from typing import Any

import pytest

import superserve
from superserve import CommandResult, SandboxConnectionError, ServerError
from superserve._collect import KEEP_BYTES
from support import SANDBOX_ID, Driver, HostileServer, Request, answer, error, events

DONE = {"timestamp": "t", "exit_code": 0, "finished": True}


def test_run(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("POST /exec", answer(200, {"stdout": "o", "stderr": "e", "exit_code": 3, "truncated": True}))
    result = driver.do(sandbox.commands.run("c", args=["a"], cwd="/w", env={"K": "v"}, user="u", timeout_seconds=1.5))
    assert result == CommandResult("o", "e", 3, True)
    request = server.requests[-1]
    assert request.json() == {
        "command": "c",
        "args": ["a"],
        "working_dir": "/w",
        "env": {"K": "v"},
        "user": "u",
        "timeout_s": 1.5,
    }
    assert request.headers["x-access-token"] == "token-1"
    assert request.headers["x-superserve-sandbox-id"] == SANDBOX_ID
    assert "x-api-key" not in request.headers


def test_run_with_a_command_only(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("POST /exec", answer(200, {"stdout": "", "stderr": "", "exit_code": 0}))
    assert driver.do(sandbox.commands.run("c")) == CommandResult("", "", 0, False)
    assert server.requests[-1].json() == {"command": "c"}


def test_args_must_not_be_a_string(driver: Driver, sandbox: Any) -> None:
    with pytest.raises(superserve.ValidationError):
        driver.do(sandbox.commands.run("c", args="abc"))


def test_stream(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(
        "POST /exec/stream", events({"stdout": "a\n"}, b": keepalive\n\n", {"stderr": "é"}, {"stdout": "b"}, DONE)
    )
    out: list[str] = []
    err: list[str] = []
    result = driver.do(sandbox.commands.run("c", on_stdout=out.append, on_stderr=err.append))
    assert (out, err, result) == (["a\n", "b"], ["é"], CommandResult("a\nb", "é", 0, False))
    assert driver.do(sandbox.commands.run("c", on_stderr=err.append)).stdout == "a\nb"


def test_callbacks_may_be_coroutine_functions(server: HostileServer) -> None:
    driver = Driver("async")
    server.on("POST /exec/stream", events({"stdout": "a"}, DONE))
    got: list[str] = []

    async def later(text: str) -> None:
        got.append(text)

    sandbox = driver.do(driver.Sandbox.create("n", api_key="k", base_url=server.url))
    driver.do(sandbox.commands.run("c", on_stdout=later))
    assert got == ["a"]
    driver.do(sandbox.kill())
    driver.close()


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n", b"5\r\ndata:"])
@pytest.mark.parametrize("items", [[], [{"stdout": "half"}], [b'data: {"exit_code":0,"finished":true}\n']])
def test_a_stream_that_is_cut_is_an_error(
    driver: Driver, server: HostileServer, sandbox: Any, items: list[Any], end: bytes
) -> None:
    server.on("POST /exec/stream", events(*items, end=end))
    with pytest.raises(SandboxConnectionError):
        driver.do(sandbox.commands.run("c", on_stdout=print))
    assert len(server.seen("POST /exec/stream")) == 1
    server.wait_for_no_connections()


@pytest.mark.parametrize(
    "item",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: \xff\n\n",
        {"finished": True, "exit_code": "x"},
        {"stdout": 7},
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_strange_events(driver: Driver, server: HostileServer, sandbox: Any, item: Any) -> None:
    server.on("POST /exec/stream", events(item))
    with pytest.raises(ServerError) as caught:
        driver.do(sandbox.commands.run("c", on_stdout=print))
    assert caught.value.code == "invalid_response"
    server.wait_for_no_connections()


def test_no_event_stream(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("POST /exec/stream", answer(200, b"<html>", {"Content-Type": "text/html"}))
    with pytest.raises(ServerError):
        driver.do(sandbox.commands.run("c", on_stdout=print))
    server.wait_for_no_connections()


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("bad_request", "ValidationError"),
        ("internal_error", "ServerError"),
        ("new", "ServerError"),
        ("unavailable", "ServerError"),
        ("not_found", "NotFoundError"),
    ],
)
def test_an_error_instead_of_an_exit_code(
    driver: Driver, server: HostileServer, sandbox: Any, code: str, name: str
) -> None:
    server.on("POST /exec/stream", events({"error": "text", "code": code, "finished": True}))
    with pytest.raises(superserve.SuperserveError, match="text") as caught:
        driver.do(sandbox.commands.run("c", on_stdout=print))
    assert (type(caught.value).__name__, caught.value.code) == (name, code)


@pytest.mark.parametrize("newline", [b"\n", b""])
def test_an_event_without_end(driver: Driver, server: HostileServer, sandbox: Any, newline: bytes) -> None:
    def reply(connection: socket.socket, _: Request) -> None:
        connection.sendall(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"data: " + b"x" * 65536 + newline
        while True:
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))

    server.on("POST /exec/stream", reply)
    with pytest.raises(superserve.OutputTooLargeError):
        driver.do(sandbox.commands.run("c", on_stdout=print))
    server.wait_for_no_connections()


def test_huge_output_is_handed_over_but_not_all_kept(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    pieces = [{"stdout": f"{i:06}" * 10_000} for i in range(200)]
    server.on("POST /exec/stream", events(*pieces, DONE))
    total = 0

    def count(text: str) -> None:
        nonlocal total
        total += len(text)

    result = driver.do(sandbox.commands.run("c", on_stdout=count))
    assert total == 200 * 60_000 and result.truncated
    assert KEEP_BYTES <= len(result.stdout) <= KEEP_BYTES + 100
    assert result.stdout.startswith("000000") and result.stdout.endswith("000199")


def test_an_error_in_a_callback_ends_the_call(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    def fail(text: str) -> None:
        raise KeyError(text)

    server.on("POST /exec/stream", events({"stdout": "a"}, end=b""))
    with pytest.raises(KeyError):
        driver.do(sandbox.commands.run("c", on_stdout=fail))
    server.wait_for_no_connections()


def test_a_token_that_somebody_else_has_changed(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    good = answer(200, {"stdout": "", "stderr": "", "exit_code": 0})
    server.on("POST /exec", error(401, "unauthorized"), good)
    server.on(f"GET /sandboxes/{SANDBOX_ID}", answer(200, server.sandbox(access_token="token-2")))
    driver.do(sandbox.commands.run("c"))
    assert [r.headers["x-access-token"] for r in server.seen("POST /exec")] == ["token-1", "token-2"]


def test_a_token_that_nobody_has_changed(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("POST /exec", error(401, "unauthorized"))
    with pytest.raises(superserve.AuthenticationError):
        driver.do(sandbox.commands.run("c"))
    assert len(server.seen("POST /exec")) == 1


def test_resume_rebuilds_files_and_commands(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(f"POST /sandboxes/{SANDBOX_ID}/resume", answer(200, {"id": SANDBOX_ID, "access_token": "token-2"}))
    server.on("POST /exec", answer(200, {"stdout": "", "stderr": "", "exit_code": 0}))
    server.on("GET /files", answer(200, b"x"))
    before = sandbox.files
    assert driver.do(sandbox.resume()) is None
    assert sandbox.files is not before
    driver.do(sandbox.commands.run("c"))
    driver.do(sandbox.files.read("/x"))
    assert [r.headers["x-access-token"] for r in server.requests[-2:]] == ["token-2", "token-2"]


def test_sessions(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    rows = [{"session_id": "s", "command": "c", "pid": 4, "started_at": "2026-01-02T15:04:05.123Z"}]
    server.on("GET /exec/sessions", answer(200, rows))
    (found,) = driver.do(sandbox.commands.list())
    assert (found.session_id, found.pid, found.exit_code) == ("s", 4, None)
    server.on("DELETE /exec/sessions/a%2Fb", answer(204, b"", {"Content-Length": "0"}))
    driver.do(sandbox.commands.kill("a/b"))
    with pytest.raises(superserve.NotFoundError):
        driver.do(sandbox.commands.kill("gone"))
