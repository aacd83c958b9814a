"""Keys and tokens stay where they belong: not in texts, not in logs, not with other hosts."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import superserve
from superserve import ServerError, SuperserveError, ValidationError
from superserve._config import resolve
from superserve._http import Call
from superserve._websocket import Handshake
from support import KEY, SANDBOX_ID, Driver, HostileServer, answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_token_away(
    driver: Driver, server: HostileServer, sandbox: Any, status: int
) -> None:
    other = HostileServer()
    for method, path in (("GET", "/exec/connect"), ("POST", "/exec"), ("GET", "/files")):
        server.on(f"{method} {path}", answer(status, b"", {"Location": other.url + path}))
    calls: list[Callable[[], Any]] = [
        lambda: sandbox.commands.spawn("c"),
        lambda: sandbox.commands.run("c"),
        lambda: sandbox.files.read("/x"),
    ]
    for call in calls:
        with pytest.raises(ServerError) as caught:
            driver.do(call())
        assert caught.value.status_code == status
    assert other.requests == []
    other.close()


def test_debug_logs(
    driver: Driver, server: HostileServer, sandbox: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.on("POST /exec", answer(200, {"stdout": "", "stderr": "", "exit_code": 0}))
    driver.do(sandbox.commands.run("c"))
    with pytest.raises(superserve.NotFoundError):
        driver.do(sandbox.commands.spawn("c"))
    assert server.seen("GET /exec/connect") and "httpx" in {record.name for record in caplog.records}
    assert KEY not in caplog.text and "token-1" not in caplog.text


def test_texts_of_requests() -> None:
    call = Call("POST", "http://h/x", headers={"X-API-Key": "secret"}, body=b'{"env_vars":{"A":"secret"}}')
    handshake = Handshake("ws://h/x", {"X-Superserve-Sandbox-Id": "s"}, ("p", "token.secret"), "agent", 1)
    assert "secret" not in repr(call) + repr(handshake) + repr(resolve("secret", "http://h"))


@pytest.mark.parametrize("url", [KEY, f"{KEY}@host", f"http://{KEY}@host", f"http://user:{KEY}@host:1/", f"ftp://{KEY}"])
def test_an_address_that_holds_a_secret_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        resolve(KEY, url)
    assert KEY not in "".join(traceback.format_exception(None, caught.value, None))


@pytest.mark.parametrize("token", ["secret\nX: y", "secret\u00e9", "se cret", "", "secret\0"])
def test_a_token_that_cannot_be_sent(driver: Driver, server: HostileServer, token: str) -> None:
    server.on("POST /sandboxes", answer(201, server.sandbox(access_token=token)))
    with pytest.raises(ServerError) as caught:
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    assert caught.value.code == "invalid_response"
    assert "secret" not in "".join(traceback.format_exception(None, caught.value, None))
    server.wait_for_no_connections()


def test_a_token_that_cannot_open_a_session(driver: Driver, server: HostileServer) -> None:
    server.on("POST /sandboxes", answer(201, server.sandbox(access_token="a,secret")))
    sandbox = driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    with pytest.raises(ServerError) as caught:
        driver.do(sandbox.commands.spawn("c"))
    assert "secret" not in "".join(traceback.format_exception(None, caught.value, None))
    driver.do(sandbox.close())


@pytest.mark.parametrize("sandbox_id", ["a\r\nX-Evil: 1", "\u00e9", "", "a b"])
def test_an_id_that_cannot_be_sent(driver: Driver, server: HostileServer, sandbox_id: str) -> None:
    server.on("POST /sandboxes", answer(201, server.sandbox(id=sandbox_id)))
    with pytest.raises(ServerError):
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))


@pytest.mark.parametrize("url", ["http://user:pass@127.0.0.1", "ftp://x", "http://", "http://a b"])
def test_a_bad_data_plane_address_is_the_servers_fault(driver: Driver, server: HostileServer, url: str) -> None:
    server.on("POST /sandboxes", answer(201, server.sandbox(data_plane_url=url)))
    with pytest.raises(ServerError) as caught:
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url))
    assert caught.value.code == "invalid_response"


def test_a_proxy_that_cannot_be_used(
    driver: Driver, server: HostileServer, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("socks9://user:secret@127.0.0.1:1", "socks5://user:secret@127.0.0.1:1"):
        for name in ("ALL_PROXY", "HTTP_PROXY"):
            monkeypatch.setenv(name, value)
            with pytest.raises(SuperserveError) as caught:
                driver.do(driver.Sandbox.kill_by_id(SANDBOX_ID))
            assert isinstance(caught.value, ValidationError) and "proxy" in str(caught.value)
            assert "secret" not in "".join(traceback.format_exception(None, caught.value, None))
            monkeypatch.delenv(name)
        monkeypatch.setenv("HTTP_PROXY", value)
        with pytest.raises(SuperserveError) as caught:
            driver.do(sandbox.commands.spawn("c"))
        assert "secret" not in "".join(traceback.format_exception(None, caught.value, None))


def test_no_proxy(driver: Driver, server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = HostileServer()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with pytest.raises(superserve.NotFoundError):
        driver.do(driver.Sandbox.connect("x", api_key=KEY, base_url=server.url))
    assert [r.path for r in proxy.requests] == [f"{server.url}/sandboxes/x"] and server.requests == []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sandbox = driver.do(driver.Sandbox.connect(SANDBOX_ID, api_key=KEY, base_url=server.url))
    with pytest.raises(superserve.NotFoundError):
        driver.do(sandbox.commands.spawn("c"))
    assert len(proxy.requests) == 1 and len(server.requests) == 2
    driver.do(sandbox.close())
    proxy.close()
