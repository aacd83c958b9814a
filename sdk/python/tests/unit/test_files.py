"""files: paths, uploads, downloads, watches."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import superserve
from superserve import FileEvent, OutputTooLargeError, SandboxConnectionError, ServerError, ValidationError
from support import Driver, HostileServer, answer, error, events, raw_answer

WRITTEN = answer(200, {"path": "/x", "size": 1})
BAD_PATHS: list[Any] = [
    "",
    "x",
    "./x",
    "../x",
    "/a/../b",
    "/..",
    "/a/..",
    "a/b",
    "/a\0b",
    "/" + "a" * 4096,
    "/\ud800",
    None,
    7,
    b"/x",
    "~/x",
    " /x",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_paths_are_refused_before_a_request(driver: Driver, server: HostileServer, sandbox: Any, path: Any) -> None:
    before = len(server.requests)
    files = sandbox.files
    calls: list[Callable[[], Any]] = [
        lambda: files.write(path, b""),
        lambda: files.read(path),
        lambda: files.read_text(path),
        lambda: files.read_stream(path),
        lambda: files.list(path),
        lambda: files.stat(path),
        lambda: files.exists(path),
        lambda: files.mkdir(path),
        lambda: files.move(path, "/x"),
        lambda: files.move("/x", path),
        lambda: files.remove(path),
        lambda: files.download_dir(path),
        lambda: files.watch(path),
        lambda: files.upload_tar(path, b""),
        lambda: files.upload_dir(".", path),
    ]
    for call in calls:
        with pytest.raises(ValidationError) as caught:
            driver.do(call())
        assert caught.value.status_code is None
    assert len(server.requests) == before


@pytest.mark.parametrize("path", ["/", "/a b", "/ä&=?#%2e", "/..a/b..", "/...", "/a//b", "/" + "a" * 4095])
def test_good_paths_arrive_as_they_are(driver: Driver, server: HostileServer, sandbox: Any, path: str) -> None:
    from urllib.parse import parse_qs

    server.on("GET /files", answer(200, b"x"))
    driver.do(sandbox.files.read(path))
    assert parse_qs(server.requests[-1].query) == {"path": [path]}


class Unseekable(io.RawIOBase):
    """A file object that gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece, self.data = self.data[:7], self.data[7:]
        return piece


@pytest.mark.parametrize(
    "make",
    [
        lambda d: d,
        bytearray,
        memoryview,
        io.BytesIO,
        Unseekable,
        lambda d: iter([d[:3], d[3:]]),
        lambda d: [d[:3], b"", d[3:]],
        lambda d: (bytes([b]) for b in d),
        lambda d: d.decode(),
        lambda d: io.StringIO(d.decode()),
    ],
)
def test_everything_that_can_be_uploaded(driver: Driver, server: HostileServer, sandbox: Any, make: Any) -> None:
    data = "grüße ".encode() * 20
    server.on("POST /files", WRITTEN)
    assert driver.do(sandbox.files.write("/x", make(data))) == superserve.WrittenFile("/x", 1)
    assert server.requests[-1].body == data
    assert server.requests[-1].headers["content-type"] == "application/octet-stream"


def test_an_async_iterator(server: HostileServer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    driver = Driver("async")
    sandbox = driver.do(driver.Sandbox.create("n", api_key="k", base_url=server.url))
    server.on("POST /files", WRITTEN)
    driver.do(sandbox.files.write("/x", pieces()))
    assert server.requests[-1].body == b"ab"
    driver.do(sandbox.kill())
    driver.close()


def test_a_large_upload_has_a_length(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    data = os.urandom(3_000_000)
    server.on("POST /files", WRITTEN)
    driver.do(sandbox.files.write("/x", data))
    assert server.requests[-1].body == data
    assert server.requests[-1].headers["content-length"] == "3000000"


@pytest.mark.parametrize("content", [7, None, object(), [1], [b"a", object()], "\ud800", ["\ud800"]])
def test_what_cannot_be_uploaded(driver: Driver, server: HostileServer, sandbox: Any, content: Any) -> None:
    with pytest.raises(ValidationError):
        driver.do(sandbox.files.write("/x", content))
    assert [r for r in server.seen("POST /files") if r.headers.get("transfer-encoding") != "chunked"] == []
    driver.do(sandbox.close())
    server.wait_for_no_connections()


def test_an_error_of_the_source_comes_through(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    def broken() -> Any:
        yield b"a"
        raise KeyError("the user's")

    with pytest.raises(KeyError):
        driver.do(sandbox.files.write("/x", broken()))
    server.wait_for_no_connections()


def test_an_upload_with_an_old_token(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("POST /files", error(401, "unauthorized"), WRITTEN)
    server.on(f"GET /sandboxes/{sandbox.id}", answer(200, server.sandbox(access_token="token-2")))
    driver.do(sandbox.files.write("/x", b"abc"))
    assert server.requests[-1].body == b"abc"
    server.on("POST /files", error(401, "unauthorized"), WRITTEN)
    with pytest.raises(superserve.AuthenticationError):  # the source is used up
        driver.do(sandbox.files.write("/x", iter([b"abc"])))


def test_upload_dir(driver: Driver, server: HostileServer, sandbox: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_text("hello")
    server.on("POST /files", WRITTEN)
    driver.do(sandbox.files.upload_dir(tmp_path, "/there"))
    request = server.requests[-1]
    assert (request.query, request.headers["content-type"]) == ("path=%2Fthere&format=tar", "application/x-tar")
    with tarfile.open(fileobj=io.BytesIO(request.body)) as archive:
        assert archive.extractfile("./sub/f").read() == b"hello"  # type: ignore[union-attr]


CUT = raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
CUT_CHUNKS = raw_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
ENDLESS = raw_answer(b"HTTP/1.1 200 OK\r\n\r\nhalf")


@pytest.mark.parametrize(
    ("reply", "name"),
    [(CUT, "SandboxConnectionError"), (CUT_CHUNKS, "SandboxConnectionError"), (ENDLESS, "ServerError")],
)
def test_half_a_file_is_an_error(driver: Driver, server: HostileServer, sandbox: Any, reply: Any, name: str) -> None:
    server.on("GET /files", reply)
    for call in (
        lambda: driver.do(sandbox.files.read("/x")),
        lambda: driver.do(sandbox.files.read_text("/x")),
        lambda: driver.do(sandbox.files.download_dir("/x")),
        lambda: driver.each(sandbox.files.read_stream("/x")),
    ):
        with pytest.raises(getattr(superserve, name)):
            call()
        server.wait_for_no_connections()


def test_read_stream(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("GET /files", answer(200, b"x" * 100_000))
    assert b"".join(driver.each(sandbox.files.read_stream("/x"))) == b"x" * 100_000
    stream = driver.enter(sandbox.files.read_stream("/x"))
    assert stream.size == 100_000
    driver.next(stream)
    driver.exit(stream)
    assert driver.each(stream) == []
    driver.do(sandbox.close())
    server.wait_for_no_connections()


def test_leaving_in_the_middle_closes_the_connection(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    def endless(connection: Any, _: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    server.on("GET /files", endless)
    stream = driver.enter(sandbox.files.read_stream("/x"))
    driver.next(stream)
    driver.exit(stream, KeyError())
    server.wait_for_no_connections()


@pytest.mark.parametrize("size", [9, 10, 11])
@pytest.mark.parametrize("chunked", [True, False])
def test_max_bytes(driver: Driver, server: HostileServer, sandbox: Any, size: int, chunked: bool) -> None:
    data = b"x" * size
    chunks = raw_answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, data), True
    )
    server.on("GET /files", chunks if chunked else answer(200, data))
    if size <= 10:
        assert driver.do(sandbox.files.read("/x", max_bytes=10)) == data
    else:
        with pytest.raises(OutputTooLargeError):
            driver.do(sandbox.files.read("/x", max_bytes=10))
    driver.do(sandbox.close())
    server.wait_for_no_connections()


def test_list_stat_exists_mkdir_move(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    row = {
        "name": "x",
        "path": "/x",
        "type": "file",
        "size": 1,
        "mode": "0644",
        "modified_at": "2026-01-02T15:04:05.123Z",
    }
    server.on("GET /files/list", answer(200, {"entries": [row]}))
    server.on("GET /files/stat", answer(200, row), error(404, "not_found"), error(403, "forbidden"))
    server.on("POST /files/mkdir", answer(200, row))
    server.on("POST /files/move", answer(200, row))
    server.on("DELETE /files", answer(204, b"", {"Content-Length": "0"}))
    files = sandbox.files
    assert [info.name for info in driver.do(files.list("/", depth=2))] == ["x"]
    assert server.requests[-1].query == "path=%2F&depth=2"
    assert driver.do(files.exists("/x")) is True
    assert driver.do(files.exists("/x")) is False
    with pytest.raises(superserve.AuthenticationError):
        driver.do(files.exists("/x"))
    assert driver.do(files.mkdir("/d")) is None
    assert driver.do(files.move("/a", "/b")) is None
    assert server.requests[-1].json() == {"from": "/a", "to": "/b"}
    assert driver.do(files.remove("/d", recursive=True)) is None
    assert server.requests[-1].query == "path=%2Fd&recursive=true"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"entries": 7}', b'{"entries": [7]}', b'{"entries": [{}]}'])
def test_strange_lists(driver: Driver, server: HostileServer, sandbox: Any, body: bytes) -> None:
    server.on("GET /files/list", answer(200, body))
    with pytest.raises(ServerError):
        driver.do(sandbox.files.list("/"))


@pytest.mark.parametrize("body", [b"", b"{", b'{"path": 7}', b'{"path": "/x", "size": true}'])
def test_strange_answers_to_an_upload(driver: Driver, server: HostileServer, sandbox: Any, body: bytes) -> None:
    server.on("POST /files", answer(200, body))
    with pytest.raises(ServerError):
        driver.do(sandbox.files.write("/x", b"abc"))


def test_watch(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    rows = [{"event": "create", "path": "/d/a"}, b": keepalive\n\n", {"event": "overflow"}]
    server.on("GET /files/watch", events(*rows, end=b""), events(rows[0]))
    watch = driver.enter(sandbox.files.watch("/d", recursive=True))
    assert server.requests[-1].query == "path=%2Fd&recursive=true"
    assert driver.next(watch) == FileEvent("create", "/d/a")
    assert driver.next(watch) == FileEvent("overflow", "")
    with pytest.raises(SandboxConnectionError):
        driver.next(watch)
    # A proper end says that there is nothing left to watch.
    assert driver.each(sandbox.files.watch("/d")) == [FileEvent("create", "/d/a")]
    server.wait_for_no_connections()


def test_leaving_a_watch(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    def one(connection: Any, request: Any) -> None:
        try:
            events({"event": "create", "path": "/a"}, end=b"")(connection, request)
        except ConnectionAbortedError:
            connection.recv(1)

    server.on("GET /files/watch", one)
    with_block = driver.enter(sandbox.files.watch("/d"))
    driver.next(with_block)
    driver.exit(with_block)
    assert driver.each(with_block) == []
    server.wait_for_no_connections()
