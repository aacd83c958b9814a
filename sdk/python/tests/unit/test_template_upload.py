"""Build contexts and images that are sent."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import socket
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import superserve
from superserve import (
    AuthenticationError,
    RateLimitError,
    SandboxConnectionError,
    ServerError,
    SuperserveError,
    TemplateImageUpload,
    TemplateUpload,
    ValidationError,
)
from support import KEY, Driver, HostileServer, Request, answer, drop, error, open_sockets

CONTEXTS = "POST /templates/contexts"
IMAGES = "POST /templates/images"
DIGEST = "sha256:" + "0a" * 32
STORED = answer(201, {"digest": DIGEST, "size": 5})


@pytest.fixture(autouse=True)
def environment(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_API_KEY", KEY)
    monkeypatch.setenv("SUPERSERVE_BASE_URL", server.url)
    server.on(CONTEXTS, STORED)
    server.on(IMAGES, STORED)


def members(request: Request) -> list[tarfile.TarInfo]:
    """What is in the tar that was sent."""
    with tarfile.open(fileobj=io.BytesIO(request.body), mode="r:") as archive:
        return archive.getmembers()


def content(request: Request, name: str) -> bytes:
    """A file in the tar that was sent."""
    with tarfile.open(fileobj=io.BytesIO(request.body), mode="r:") as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


@pytest.mark.parametrize(
    "make", [bytes, bytearray, memoryview, io.BytesIO, lambda d: iter([d[:3], d[3:]]), lambda d: [d[:3], b"", d[3:]]]
)
def test_tars_of_every_form(driver: Driver, server: HostileServer, make: Any) -> None:
    data = os.urandom(300_000)
    assert driver.do(driver.Template.upload_context(make(data))) == TemplateUpload(DIGEST, 5)
    image = driver.do(driver.Template.upload_image(make(data)))
    assert image == TemplateImageUpload(DIGEST, 5, f"upload:{DIGEST}")
    assert [f"{r.method} {r.path}" for r in server.requests] == [CONTEXTS, IMAGES]
    for request in server.requests:
        assert request.body == data
        assert request.headers["content-type"] == "application/x-tar"
        assert request.headers["x-api-key"] == KEY
    server.wait_for_no_connections()


def test_a_tar_of_an_async_iterator(server: HostileServer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    driver = Driver("async")
    driver.do(driver.Template.upload_context(pieces()))
    assert server.requests[-1].body == b"ab"
    driver.close()


@pytest.mark.parametrize("form", [str, Path])
def test_a_directory(driver: Driver, server: HostileServer, tmp_path: Path, form: Any) -> None:
    (tmp_path / "b").mkdir(mode=0o750)
    (tmp_path / "b" / "grüße").write_bytes(b"hello")
    (tmp_path / "b" / "empty").mkdir()
    (tmp_path / "c").write_bytes(b"#!")
    (tmp_path / "c").chmod(0o4755)
    os.link(tmp_path / "c", tmp_path / "d")
    (tmp_path / "a").symlink_to("/etc/passwd")
    (tmp_path / "e").symlink_to("b")
    (tmp_path / ("n" * 200)).write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        assert driver.do(driver.Template.upload_context(form(tmp_path))) == TemplateUpload(DIGEST, 5)
    request = server.requests[-1]
    assert int(request.headers["content-length"]) == len(request.body)
    assert [(m.name, m.type, m.mode, m.linkname) for m in members(request)] == [
        ("a", tarfile.SYMTYPE, 0o777, "/etc/passwd"),
        ("b", tarfile.DIRTYPE, 0o750, ""),
        ("b/empty", tarfile.DIRTYPE, 0o755, ""),
        ("b/grüße", tarfile.REGTYPE, 0o644, ""),
        ("c", tarfile.REGTYPE, 0o755, ""),
        ("d", tarfile.REGTYPE, 0o755, ""),
        ("e", tarfile.SYMTYPE, 0o777, "b"),
        ("n" * 200, tarfile.REGTYPE, 0o644, ""),
    ]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members(request)} == {(0, 0, "", "", 315532800)}
    assert [content(request, name) for name in ("b/grüße", "c", "d")] == [b"hello", b"#!", b"#!"]


def test_the_same_files_are_the_same_bytes(driver: Driver, server: HostileServer, tmp_path: Path) -> None:
    for base, names in (("one", "abc"), ("two", "cba")):
        for name in names:
            (tmp_path / base / name).mkdir(parents=True)
            (tmp_path / base / name / "f").write_text(name)
            os.utime(tmp_path / base / name / "f", (len(base + names[0]), ord(names[0])))
        driver.do(driver.Template.upload_context(tmp_path / base))
    (tmp_path / "two" / "a" / "f").chmod(0o600)
    driver.do(driver.Template.upload_context(tmp_path / "two"))
    one, two, changed = (hashlib.sha256(request.body).digest() for request in server.requests)
    assert one == two != changed


def test_directories_that_cannot_be_sent(driver: Driver, server: HostileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "sub" / "fifo")
    for path, what in (("file", "no directory"), ("none", "no directory"), (".", "fifo' is neither")):
        with pytest.raises(ValidationError, match=what):
            driver.do(driver.Template.upload_context(tmp_path / path))
    assert server.requests == []


def test_a_file_that_was_replaced_is_not_followed(
    driver: Driver, server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    before = os.lstat(tmp_path / "file")
    (tmp_path / "file").unlink()
    monkeypatch.setattr("superserve._context.os.lstat", lambda _: before)
    os.mkfifo(tmp_path / "file")
    with pytest.raises(ValidationError, match="replaced"):
        driver.do(driver.Template.upload_context(tmp_path))
    (tmp_path / "file").unlink()
    (tmp_path / "file").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="file"):
        driver.do(driver.Template.upload_context(tmp_path))
    assert server.requests == []


def test_what_cannot_be_sent(driver: Driver, server: HostileServer) -> None:
    for source in (7, None, object()):
        for send in (driver.Template.upload_context, driver.Template.upload_image):
            with pytest.raises(ValidationError):
                driver.do(send(source))
    with pytest.raises(ValidationError, match="open"):
        driver.do(driver.Template.upload_image("image.tar"))
    with pytest.raises(AuthenticationError):
        driver.do(driver.Template.upload_context(b"", api_key=""))
    assert server.requests == []


ERRORS: list[tuple[int, type[SuperserveError]]] = [
    (400, ValidationError),
    (401, AuthenticationError),
    (413, ValidationError),
    (429, RateLimitError),
    (503, ServerError),
]


@pytest.mark.parametrize(("status", "expected"), ERRORS)
def test_errors_are_typed_and_nothing_is_sent_twice(
    driver: Driver, server: HostileServer, tmp_path: Path, status: int, expected: type[SuperserveError]
) -> None:
    for route, send, source in (
        (CONTEXTS, driver.Template.upload_context, tmp_path),
        (CONTEXTS, driver.Template.upload_context, b"tar"),
        (IMAGES, driver.Template.upload_image, b"tar"),
    ):
        server.on(route, error(status, "a_code"), STORED)
        server.requests.clear()
        with pytest.raises(expected) as caught:
            driver.do(send(source))
        assert (caught.value.status_code, caught.value.code) == (status, "a_code")
        assert len(server.requests) == 1
    server.wait_for_no_connections()


def test_a_lost_answer_is_not_asked_for_again(driver: Driver, server: HostileServer) -> None:
    server.on(CONTEXTS, drop(), STORED)
    with pytest.raises(SandboxConnectionError):
        driver.do(driver.Template.upload_context(b"tar"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"", b"[]", {}, {"digest": DIGEST}, {"digest": 1, "size": 1}, {"digest": "", "size": "1"}])
def test_strange_answers(driver: Driver, server: HostileServer, body: Any) -> None:
    server.on(IMAGES, answer(201, body))
    with pytest.raises(ServerError):
        driver.do(driver.Template.upload_image(b"tar"))


def test_an_error_of_the_source_comes_through(driver: Driver, server: HostileServer) -> None:
    def broken() -> Any:
        yield b"a"
        raise KeyError("the user's")

    with pytest.raises(KeyError):
        driver.do(driver.Template.upload_image(broken()))
    server.wait_for_no_connections()


def test_cancelling(server: HostileServer) -> None:
    async def run() -> None:
        begun = asyncio.Event()

        async def source() -> Any:
            yield b"a"
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(superserve.AsyncTemplate.upload_context(source()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = open_sockets()
    asyncio.run(run())
    server.wait_for_no_connections()
    assert open_sockets() <= before
