"""A server with a certificate of a private authority."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

import superserve
from support import KEY, Driver, HostileServer, answer


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """The authority, its certificate in ca.pem."""
    found = trustme.CA()
    found.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return found


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """A server's settings."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(found)
    return found


@pytest.fixture
def secure(context: ssl.SSLContext) -> Iterator[HostileServer]:
    """An HTTPS server."""
    found = HostileServer(tls=context)
    yield found
    found.close()


def test_an_unknown_authority_is_refused(driver: Driver, secure: HostileServer) -> None:
    with pytest.raises(superserve.SandboxConnectionError, match="certificate"):
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=secure.url))
    assert secure.requests == []


def one_session(connection: ServerConnection) -> None:
    """A command that ends at once."""
    connection.recv()
    connection.send('{"session_id":"s","pid":1}')
    connection.send('{"exit_code":0,"finished":true}')


def test_ssl_cert_file(
    driver: Driver, secure: HostileServer, context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with serve(
        one_session,
        "127.0.0.1",
        0,
        ssl=context,
        subprotocols=[Subprotocol("superserve.exec.v1")],
    ) as sessions:
        threading.Thread(target=sessions.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{sessions.socket.getsockname()[1]}"
        secure.on("POST /sandboxes", answer(201, secure.sandbox(data_plane_url=url)))
        sandbox = driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=secure.url))
        assert driver.do(driver.do(sandbox.commands.spawn("c")).wait()).exit_code == 0
        driver.do(sandbox.kill())
