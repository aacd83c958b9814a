"""What the scenarios don't say: Python's own ways, sizes, and what is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

import superserve
from superserve import AsyncSandbox, Sandbox
from support import Driver, open_sockets

MIB = 1 << 20


def test_the_block_deletes(driver: Driver) -> None:
    sandbox = driver.enter(driver.do(driver.Sandbox.create("block")))
    driver.exit(sandbox)
    with pytest.raises(superserve.NotFoundError):
        driver.do(sandbox.get_info())
    driver.do(sandbox.kill())


def test_the_same_idempotency_key(driver: Driver) -> None:
    key = os.urandom(16).hex()
    first = driver.do(driver.Sandbox.create("once", idempotency_key=key))
    second = driver.do(driver.Sandbox.create("once", idempotency_key=key))
    assert first.id == second.id
    with pytest.raises(superserve.ConflictError):
        driver.do(driver.Sandbox.create("twice", idempotency_key=key))
    driver.do(first.kill())
    driver.do(second.kill())


def test_large_files_in_every_way(driver: Driver, live: Any, tmp_path: Path) -> None:
    data = os.urandom(20 * MIB)
    (tmp_path / "f").write_bytes(data)
    driver.do(live.files.write("/tmp/bytes", data))
    with open(tmp_path / "f", "rb") as file:
        assert driver.do(live.files.write("/tmp/file", file)).size == len(data)
    driver.do(live.files.write("/tmp/iterator", (data[i : i + MIB] for i in range(0, len(data), MIB))))
    for name in ("bytes", "file", "iterator"):
        assert driver.do(live.files.read(f"/tmp/{name}")) == data
    assert b"".join(driver.each(live.files.read_stream("/tmp/file"))) == data
    with pytest.raises(superserve.OutputTooLargeError):
        driver.do(live.files.read("/tmp/file", max_bytes=MIB))


def test_a_broken_upload_leaves_the_old_file(driver: Driver, live: Any) -> None:
    def broken() -> Any:
        yield b"new"
        raise KeyError

    driver.do(live.files.write("/tmp/kept", "old"))
    with pytest.raises(KeyError):
        driver.do(live.files.write("/tmp/kept", broken()))
    assert driver.do(live.files.read_text("/tmp/kept")) == "old"


def test_directories_there_and_back(driver: Driver, live: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ä b").write_text("text")
    driver.do(live.files.upload_dir(tmp_path, "/tmp/up"))
    assert driver.do(live.files.read_text("/tmp/up/sub/ä b")) == "text"
    with zipfile.ZipFile(io.BytesIO(driver.do(live.files.download_dir("/tmp/up")))) as archive:
        assert archive.read("up/sub/ä b") == b"text"


def test_huge_output(driver: Driver, live: Any) -> None:
    command = "head -c 20000000 /dev/zero | tr '\\0' x"
    assert driver.do(live.commands.run(command)).truncated
    total = 0

    def count(text: str) -> None:
        nonlocal total
        total += len(text)

    assert driver.do(live.commands.run(command, on_stdout=count)).truncated
    assert total == 20_000_000
    process = driver.do(live.commands.spawn(command))
    assert driver.do(process.wait()).truncated
    assert process.offset == 20_000_000


def test_stdin_larger_than_every_buffer(driver: Driver, live: Any) -> None:
    process = driver.do(live.commands.spawn("md5sum"))
    for _ in range(8):
        driver.do(process.write_stdin(b"x" * MIB))
    driver.do(process.close_stdin())
    assert driver.do(process.wait()).stdout.split()[0] == hashlib.md5(b"x" * (8 * MIB)).hexdigest()


def test_leaving_the_block_kills_the_command(driver: Driver, live: Any) -> None:
    for command in ("exec sleep 1000", "yes"):
        process = driver.enter(driver.do(live.commands.spawn(command)))
        driver.exit(process)
        assert process.exit_code == 137
    assert [s.exit_code for s in driver.do(live.commands.list())] == [137, 137]


def test_cancelling_kills_nothing_and_leaves_nothing() -> None:
    async def run() -> None:
        async with await AsyncSandbox.create("cancel", timeout_seconds=600) as sandbox:
            await sandbox.commands.run("true")
            before = open_sockets()
            process = await sandbox.commands.spawn("echo up; exec sleep 1000")
            watch = sandbox.files.watch("/tmp")
            for waiting in (
                process.wait(),
                sandbox.commands.run("sleep 1000", timeout_seconds=2000, on_stdout=lambda _: None),
                sandbox.commands.run("sleep 1000", timeout_seconds=2000),
                watch.__anext__(),
            ):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(waiting, 0.5)
            assert (await process.read_output()).stdout == "up\n"
            assert [s.exit_code for s in await sandbox.commands.list()] == [None]
            await process.detach()
            assert open_sockets() <= before
            assert (await sandbox.get_info()).status == "active"

    before = open_sockets()
    asyncio.run(run())
    assert open_sockets() <= before


def test_nothing_stays_open(driver: Driver) -> None:
    before = open_sockets()
    with Sandbox.create("sockets") as sandbox:
        sandbox.commands.run("true")
        sandbox.commands.run("true", on_stdout=print)
        with sandbox.commands.spawn("cat") as process:
            process.write_stdin("x")
        with sandbox.files.watch("/tmp") as watch:
            sandbox.files.write("/tmp/x", b"")
            next(watch)
        with sandbox.files.read_stream("/usr/bin/env") as stream:
            next(stream)
    assert open_sockets() <= before
    for call in (driver.Sandbox.list, driver.Template.list):
        driver.do(call())
    assert open_sockets() <= before


def test_two_objects_and_a_token_that_changes(driver: Driver, live: Any) -> None:
    other = driver.do(driver.Sandbox.connect(live.id))
    driver.do(live.pause())
    driver.do(live.resume())
    assert driver.do(other.commands.run("echo $((6*7))")).stdout == "42\n"
    assert driver.do(driver.do(other.commands.spawn("echo hi")).wait()).stdout == "hi\n"
    driver.do(other.close())


def test_a_paused_sandbox_is_woken_by_a_session(driver: Driver, live: Any) -> None:
    driver.do(live.pause())
    assert driver.do(driver.do(live.commands.spawn("echo hi")).wait()).stdout == "hi\n"
    assert driver.do(live.get_info()).status == "active"
