"""A server with a certificate of a private authority."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

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


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SUPERSERVE_CA_FILE"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, content: Optional[bytes]
) -> None:
    if content is not None:
        (tmp_path / "ca").write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / "ca"))
    with pytest.raises(superserve.ValidationError, match=variable):
        driver.do(driver.Sandbox.create("n", api_key=KEY, base_url="https://127.0.0.1:1"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SUPERSERVE_CA_FILE"])
def test_a_private_authority(
    driver: Driver,
    secure: HostileServer,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    with serve(
        one_session,
        "127.0.0.1",
        0,
        ssl=context,
        subprotocols=[Subprotocol("superserve.exec.v1")],
        open_timeout=60,  # a machine that is busy with other tests must not fail this one
    ) as sessions:
        threading.Thread(target=sessions.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{sessions.socket.getsockname()[1]}"
        secure.on("POST /sandboxes", answer(201, secure.sandbox(data_plane_url=url)))
        sandbox = driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=secure.url))
        assert driver.do(driver.do(sandbox.commands.spawn("c")).wait()).exit_code == 0
        driver.do(sandbox.kill())
