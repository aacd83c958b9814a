"""Calls of the control plane: what is sent, what comes back, what goes wrong."""

from __future__ import annotations

import socket
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs

import pytest

import superserve
from superserve import NetworkConfig, NotFoundError, SandboxStatus, ServerError, SuperserveError, ValidationError
from support import KEY, SANDBOX_ID, Driver, HostileServer, Request, answer, drop, error, open_sockets, raw_answer

HTML = b"<html><body>502 Bad Gateway</body></html>"


def test_create_sends_everything(driver: Driver, server: HostileServer) -> None:
    sandbox = driver.do(
        driver.Sandbox.create(
            name="n",
            from_template="superserve/base",
            timeout_seconds=60,
            auto_delete_seconds=0,
            metadata={"a": "b"},
            env_vars={"C": "d"},
            network=NetworkConfig(allow_out=["192.0.2.1"], deny_out=["0.0.0.0/0"]),
            idempotency_key="once",
            api_key=KEY,
            base_url=server.url + "/",
        )
    )
    request = server.requests[0]
    assert request.json() == {
        "name": "n",
        "from_template": "superserve/base",
        "timeout_seconds": 60,
        "timeout_action": "pause",
        "auto_delete_seconds": 0,
        "metadata": {"a": "b"},
        "env_vars": {"C": "d"},
        "network": {"allow_out": ["192.0.2.1"], "deny_out": ["0.0.0.0/0"]},
    }
    assert request.headers["x-api-key"] == KEY
    assert request.headers["idempotency-key"] == "once"
    assert (sandbox.id, sandbox.name, sandbox.status, sandbox.metadata) == (SANDBOX_ID, "test", "active", {})
    driver.do(sandbox.close())


def test_create_with_a_name_only_and_another_timeout_action(
    driver: Driver, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERSERVE_API_KEY", KEY)
    monkeypatch.setenv("SUPERSERVE_BASE_URL", server.url)
    driver.do(driver.do(driver.Sandbox.create("n")).close())
    driver.do(driver.do(driver.Sandbox.create("n", timeout_action="delete", from_snapshot="s")).close())
    assert [r.json() for r in server.requests] == [
        {"name": "n", "timeout_action": "pause"},
        {"name": "n", "timeout_action": "delete", "from_snapshot": "s"},
    ]


def test_create_from_a_template_object(driver: Driver, server: HostileServer) -> None:
    row = {
        "id": "t-1",
        "name": "superserve/base",
        "team_id": "t",
        "status": "ready",
        "vcpu": 1,
        "memory_mib": 1,
        "disk_mib": 1,
        "created_at": "2026-01-02T15:04:05.123Z",
    }
    server.on("GET /templates/superserve%2Fbase", answer(200, row))
    template = driver.do(driver.Template.get("superserve/base", api_key=KEY, base_url=server.url))
    assert (template.id, template.name, template.info.vcpu) == ("t-1", "superserve/base", 1)
    for given in (template, template.info):
        created = driver.do(driver.Sandbox.create("n", from_template=given, api_key=KEY, base_url=server.url))
        driver.do(created.close())
        assert server.requests[-1].json()["from_template"] == "t-1"


def test_properties_are_read_only_snapshots(driver: Driver, sandbox: Any) -> None:
    for name in ("id", "name", "status", "metadata", "commands", "files"):
        with pytest.raises(AttributeError):
            setattr(sandbox, name, "other")
    sandbox.metadata["changed"] = "outside"
    assert sandbox.metadata == {}


def test_get_info(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    row = server.sandbox(
        status="paused",
        metadata={"a": "b"},
        timeout_seconds=5,
        network={"allow_out": ["192.0.2.1"]},
        auto_delete_at="2026-01-02T15:04:05.123456Z",
    )
    server.on(f"GET /sandboxes/{SANDBOX_ID}", answer(200, row))
    info = driver.do(sandbox.get_info())
    assert info.status is SandboxStatus.PAUSED and str(info.status) == f"{info.status}" == "paused"
    assert info.network == NetworkConfig(["192.0.2.1"], None)
    assert info.created_at == datetime(2026, 1, 2, 15, 4, 5, 123000, timezone.utc)
    assert info.auto_delete_at == datetime(2026, 1, 2, 15, 4, 5, 123456, timezone.utc)
    assert (info.timeout_seconds, info.metadata) == (5, {"a": "b"})
    assert (sandbox.status, sandbox.metadata) == ("active", {})


def test_update_tells_none_from_absent(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(f"PATCH /sandboxes/{SANDBOX_ID}", answer(204, b"", {"Content-Length": "0"}))
    assert driver.do(sandbox.update(metadata={"a": "b"})) is None
    driver.do(sandbox.update(timeout_seconds=None, network={"deny_out": ["0.0.0.0/0"]}))
    driver.do(driver.Sandbox.update_by_id(SANDBOX_ID, auto_delete_seconds=None, timeout_action="delete"))
    assert [r.json() for r in server.seen(f"PATCH /sandboxes/{SANDBOX_ID}")] == [
        {"metadata": {"a": "b"}},
        {"timeout_seconds": None, "network": {"deny_out": ["0.0.0.0/0"]}},
        {"auto_delete_seconds": None, "timeout_action": "delete"},
    ]


def test_list_reads_all_pages_and_escapes_the_filter(driver: Driver, server: HostileServer) -> None:
    rows = [server.sandbox(id=f"id-{i}") for i in range(250)]
    # One was made between the two requests, so the last of the first page comes again.
    server.on("GET /sandboxes", answer(200, rows[:200]), answer(200, rows[199:]))
    found = driver.do(driver.Sandbox.list(metadata={"a b": "c&d"}, api_key=KEY, base_url=server.url))
    assert [info.id for info in found] == [row["id"] for row in rows]
    assert [parse_qs(r.query) for r in server.requests] == [
        {"metadata.a b": ["c&d"], "limit": ["200"], "offset": [offset]} for offset in ("0", "200")
    ]


def test_list_ends_when_a_server_ignores_the_offset(driver: Driver, server: HostileServer) -> None:
    server.on("GET /sandboxes", answer(200, [server.sandbox(id=f"id-{i}") for i in range(200)]))
    assert len(driver.do(driver.Sandbox.list(api_key=KEY, base_url=server.url))) == 200
    assert len(server.requests) == 2


def test_one_page(driver: Driver, server: HostileServer) -> None:
    server.on("GET /sandboxes", answer(200, [server.sandbox()]))
    driver.do(driver.Sandbox.list(status="active", limit=1, offset=3, api_key=KEY, base_url=server.url))
    assert [r.query for r in server.requests] == ["status=active&limit=1&offset=3"]


def test_kill_swallows_not_found_only(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(f"DELETE /sandboxes/{SANDBOX_ID}", error(404, "not_found"))
    assert driver.do(sandbox.kill()) is None
    assert driver.do(driver.Sandbox.kill_by_id(SANDBOX_ID)) is None
    server.on(f"DELETE /sandboxes/{SANDBOX_ID}", error(409, "conflict"))
    with pytest.raises(superserve.ConflictError):
        driver.do(sandbox.kill())


def test_with_kills(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    driver.exit(driver.enter(sandbox))
    assert len(server.seen(f"DELETE /sandboxes/{SANDBOX_ID}")) == 1
    server.wait_for_no_connections()


def test_an_error_in_the_block_is_not_replaced(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(f"DELETE /sandboxes/{SANDBOX_ID}", error(500, "internal_error"))
    driver.exit(driver.enter(sandbox), KeyError("the user's"))
    with pytest.raises(ServerError):
        driver.exit(sandbox)


@pytest.mark.parametrize("sandbox_id", ["", ".", "..", None, 7])
def test_ids_that_would_change_the_path(driver: Driver, server: HostileServer, sandbox: Any, sandbox_id: Any) -> None:
    before = len(server.requests)
    for call in (driver.Sandbox.connect, driver.Sandbox.kill_by_id):
        with pytest.raises(ValidationError):
            driver.do(call(sandbox_id))
    assert len(server.requests) == before


def test_ids_are_escaped(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    with pytest.raises(NotFoundError):
        driver.do(driver.Sandbox.connect("a/../b?c#d"))
    assert server.requests[-1].path == "/sandboxes/a%2F..%2Fb%3Fc%23d"


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "ValidationError"),
        (401, "AuthenticationError"),
        (403, "AuthenticationError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (413, "ValidationError"),
        (429, "RateLimitError"),
        (500, "ServerError"),
        (503, "ServerError"),
        (507, "ServerError"),
        (302, "ServerError"),
        (418, "ValidationError"),
    ],
)
def test_errors_by_status(driver: Driver, server: HostileServer, status: int, name: str) -> None:
    server.on("POST /sandboxes", error(status, "some_code", {"Retry-After": "7", "Location": "http://192.0.2.1/"}))
    with pytest.raises(SuperserveError) as caught:
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    assert type(caught.value) is getattr(superserve, name)
    assert (caught.value.status_code, caught.value.code) == (status, "some_code")
    assert (str(caught.value), caught.value.retry_after) == ("this is some_code", 7)
    assert len(server.requests) == 1
    assert issubclass(type(caught.value), superserve.SandboxError)


@pytest.mark.parametrize(
    "body", [HTML, b"", b'{"error":', b"[]", b'{"error":7}', b'{"error":{"code":3}}', b"\xff" * 99]
)
def test_error_status_with_a_strange_body(driver: Driver, server: HostileServer, body: bytes) -> None:
    server.on("POST /sandboxes", answer(502, body))
    with pytest.raises(ServerError) as caught:
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    assert (caught.value.status_code, caught.value.code) == (502, None)


@pytest.mark.parametrize(
    "body",
    [
        HTML,
        b"",
        b'{"id": "x", "na',
        b"[]",
        b"null",
        b"7",
        b'{"id": 7}',
        b"[" * 100_000,
        b'{"id": "x", "name": "n"}',
        b"\xff\xfe",
    ],
)
def test_good_status_with_a_strange_body(driver: Driver, server: HostileServer, body: bytes) -> None:
    server.on("POST /sandboxes", answer(201, body))
    before = open_sockets()
    with pytest.raises(ServerError) as caught:
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    assert caught.value.code == "invalid_response"
    server.wait_for_no_connections()
    assert open_sockets() <= before


@pytest.mark.parametrize("url", [7, "ftp://x", "http://", "//x"])
def test_a_data_plane_address_that_is_none(driver: Driver, server: HostileServer, url: Any) -> None:
    server.on("POST /sandboxes", answer(201, server.sandbox(data_plane_url=url)))
    with pytest.raises(SuperserveError):
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    server.wait_for_no_connections()


@pytest.mark.parametrize(
    "reply",
    [
        drop(),
        raw_answer(b"HTTP/1.1 200 OK\r\nContent-Le"),
        raw_answer(b"garbage\r\n\r\n"),
        raw_answer(b"HTTP/1.1 201 OK\r\nContent-Length: 100\r\n\r\n{"),
    ],
)
def test_no_answer_or_half_of_one(driver: Driver, server: HostileServer, reply: Any) -> None:
    server.on("POST /sandboxes", reply)
    with pytest.raises(superserve.SandboxConnectionError) as caught:
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    assert isinstance(caught.value, ConnectionError)
    assert len(server.requests) == 1


def test_nobody_listens(driver: Driver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(superserve.SandboxConnectionError):
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=f"http://127.0.0.1:{port}"))


def hang(server: HostileServer, first: bytes = b"") -> Any:
    """Sends something and then nothing."""

    def reply(connection: socket.socket, _: Request) -> None:
        connection.sendall(first)
        server.stop.wait(20)

    return reply


def trickle(server: HostileServer) -> Any:
    """Sends a byte now and then, for ever."""

    def reply(connection: socket.socket, _: Request) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not server.stop.wait(0.05):
            connection.sendall(b" ")

    return reply


@pytest.mark.parametrize("how", ["nothing", "head", "trickle"])
def test_a_server_that_hangs(driver: Driver, server: HostileServer, how: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    reply = trickle(server) if how == "trickle" else hang(server, head if how == "head" else b"")
    server.on(f"GET /sandboxes/{SANDBOX_ID}", reply)
    with pytest.raises(superserve.SandboxTimeoutError) as caught:
        driver.do(driver.Sandbox.connect(SANDBOX_ID, api_key=KEY, base_url=server.url, request_timeout=0.3))
    assert isinstance(caught.value, TimeoutError)
    assert len(server.requests) == 1
    server.stop.set()
    server.wait_for_no_connections()


@pytest.mark.parametrize("status", [201, 500])
@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_answer(driver: Driver, server: HostileServer, status: int, announced: bool) -> None:
    def reply(connection: socket.socket, _: Request) -> None:
        size = b"Content-Length: 999999999999\r\n" if announced else b"Transfer-Encoding: chunked\r\n"
        connection.sendall(b"HTTP/1.1 %d X\r\n%s\r\n" % (status, size))
        while True:
            connection.sendall(b" " * 65536 if announced else b"10000\r\n" + b" " * 65536 + b"\r\n")

    server.on("POST /sandboxes", reply)
    with pytest.raises(superserve.OutputTooLargeError if status == 201 else ServerError):
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    server.wait_for_no_connections()


@pytest.mark.parametrize("body", [b'4c\r\n{"error":{"code":"is_directory","message":"', b"", b"5\r\n{"])
def test_an_error_whose_body_is_cut(driver: Driver, server: HostileServer, body: bytes) -> None:
    server.on("POST /sandboxes", raw_answer(b"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\n" + body))
    with pytest.raises(ValidationError) as caught:
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    assert (caught.value.status_code, caught.value.code) == (400, None)


def test_an_error_without_its_last_chunk(driver: Driver, server: HostileServer) -> None:
    body = b'{"error":{"code":"is_directory","message":"text"}}'
    head = b"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.on("POST /sandboxes", raw_answer(head + b"%x\r\n%s\r\n" % (len(body), body)))
    with pytest.raises(ValidationError, match="text") as caught:
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    assert caught.value.code == "is_directory"


def test_a_redirect_does_not_carry_the_key_away(driver: Driver, server: HostileServer) -> None:
    other = HostileServer()
    server.on("GET /sandboxes", answer(307, b"", {"Location": other.url + "/sandboxes"}))
    with pytest.raises(ServerError):
        driver.do(driver.Sandbox.list(api_key=KEY, base_url=server.url))
    assert other.requests == []
    other.close()


def test_arguments_that_are_no_json(driver: Driver, server: HostileServer) -> None:
    wrong: list[Any] = [{"a": object()}, {"a": float("nan")}]
    for metadata in wrong:
        with pytest.raises(ValidationError):
            driver.do(driver.Sandbox.create("n", metadata=metadata, api_key=KEY, base_url=server.url))
    assert server.requests == []


def test_network_log(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    row = {
        "kind": "connection",
        "id": 7,
        "ts": "2026-01-02T15:04:05.123Z",
        "dst_ip": "192.0.2.1",
        "dst_port": 443,
        "protocol": "tcp",
        "verdict": "blocked",
        "match_rule": "0.0.0.0/0",
        "new_field": 1,
    }
    summed = {**row, "id": 8, "kind": "request", "protocol": "dns", "host": "a.example", "count": 0, "bytes_sent": 0}
    page = {"data": [row, summed], "next_cursor": "c", "has_more": True}
    server.on(f"GET /sandboxes/{SANDBOX_ID}/network", answer(200, page))
    found = driver.do(sandbox.get_network_log(limit=1, verdict="blocked"))
    assert (found.events[0].dst_ip, found.events[0].verdict, found.next_cursor, found.has_more) == (
        "192.0.2.1",
        "blocked",
        "c",
        True,
    )
    assert server.requests[-1].query == "limit=1&verdict=blocked"
    assert (found.events[0].count, found.events[1].count, found.events[1].bytes_sent) == (None, 0, 0)
    driver.do(sandbox.get_network_log(since="2026-01-02T15:04:05+00:00", before="17"))
    assert server.requests[-1].query == "before=17&since=2026-01-02T15%3A04%3A05%2B00%3A00"


def test_a_status_of_a_later_server(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(f"GET /sandboxes/{SANDBOX_ID}", answer(200, server.sandbox(status="hibernating")))
    assert driver.do(sandbox.get_info()).status == "hibernating"
