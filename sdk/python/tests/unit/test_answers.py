"""Answers that look good and are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import superserve
from superserve import CommandResult, OutputTooLargeError, RateLimitError, ServerError
from superserve._http import retry_after
from superserve._sse import MAX_EVENT_BYTES, EventDecoder
from support import SANDBOX_ID, Driver, HostileServer, answer, error, events, raw_answer

NOTHING: dict[str, Callable[[Driver, Any], Any]] = {
    f"DELETE /sandboxes/{SANDBOX_ID}": lambda d, s: s.kill(),
    f"POST /sandboxes/{SANDBOX_ID}/pause": lambda d, s: s.pause(),
    f"PATCH /sandboxes/{SANDBOX_ID}": lambda d, s: s.update(metadata={}),
    "POST /files/mkdir": lambda d, s: s.files.mkdir("/x"),
    "POST /files/move": lambda d, s: s.files.move("/x", "/y"),
    "DELETE /files": lambda d, s: s.files.remove("/x"),
    "DELETE /exec/sessions/s": lambda d, s: s.commands.kill("s"),
    "DELETE /templates/t": lambda d, s: d.Template.delete_by_id("t"),
}


@pytest.mark.parametrize("route", NOTHING)
def test_a_page_is_no_success(driver: Driver, server: HostileServer, sandbox: Any, route: str) -> None:
    server.on(route, answer(200, b"<html>Sign in</html>", {"Content-Type": "text/html"}))
    with pytest.raises(ServerError) as caught:
        driver.do(NOTHING[route](driver, sandbox))
    assert caught.value.code == "invalid_response"
    for body in (b"", b"{}"):
        server.on(route, answer(200, body))
        assert driver.do(NOTHING[route](driver, sandbox)) is None


@pytest.mark.parametrize("head", [b"206 X\r\n", b"204 X\r\n", b"200 X\r\nContent-Encoding: gzip\r\n"])
def test_what_is_not_the_whole_file(driver: Driver, server: HostileServer, sandbox: Any, head: bytes) -> None:
    server.on("GET /files", raw_answer(b"HTTP/1.1 " + head + b"Content-Length: 2\r\n\r\nab"))
    with pytest.raises(ServerError):
        driver.do(sandbox.files.read("/x"))
    with pytest.raises(ServerError):
        driver.each(sandbox.files.read_stream("/x"))
    server.wait_for_no_connections()


@pytest.mark.parametrize("value", ["\u00b2", "\u0663", "-5", "Mon, 99 Xxx 0000", "1e9", "\t", ",,,"])
def test_a_wait_that_is_no_number(driver: Driver, server: HostileServer, sandbox: Any, value: str) -> None:
    assert retry_after(value) is None
    raw = b"HTTP/1.1 429 X\r\nContent-Length: 0\r\nRetry-After: " + value.encode("utf-8") + b"\r\n\r\n"
    server.on(f"POST /sandboxes/{SANDBOX_ID}/pause", raw_answer(raw))
    with pytest.raises(RateLimitError) as caught:
        driver.do(sandbox.pause())
    assert caught.value.retry_after is None
    server.wait_for_no_connections()


def test_latin_digits_in_a_header(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    raw = b"HTTP/1.1 429 X\r\nContent-Length: 0\r\nRetry-After: \xb2\r\n\r\n"
    server.on(f"POST /sandboxes/{SANDBOX_ID}/pause", raw_answer(raw))
    with pytest.raises(RateLimitError):
        driver.do(sandbox.pause())


def test_a_wait_before_a_session(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("GET /exec/connect", error(429, "rate_limited", {"Retry-After": "7"}))
    with pytest.raises(RateLimitError) as caught:
        driver.do(sandbox.commands.spawn("c"))
    assert caught.value.retry_after == 7


def test_a_deletion_that_was_refused_has_not_happened(
    driver: Driver, server: HostileServer, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superserve._http.random.random", lambda: -0.45)
    for fault in (error(503, "unavailable"), error(429, "rate_limited")):
        server.on("DELETE /files", fault, error(404, "not_found"))
        with pytest.raises(superserve.NotFoundError):
            driver.do(sandbox.files.remove("/x"))


def test_rules_that_are_no_strings(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(f"GET /sandboxes/{SANDBOX_ID}", answer(200, server.sandbox(network={"allow_out": [1]})))
    with pytest.raises(ServerError):
        driver.do(sandbox.get_info())


def test_a_byte_order_mark_and_a_type_in_capitals(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    body = b'\xef\xbb\xbfdata: {"stdout":"a"}\r\n\r\ndata: {"exit_code":0,"finished":true}\r\n\r\n'
    server.on("POST /exec/stream", answer(200, body, {"Content-Type": "Text/Event-Stream; charset=utf-8"}))
    assert driver.do(sandbox.commands.run("c", on_stdout=lambda _: None)) == CommandResult("a", "", 0, False)


def test_a_byte_order_mark_that_is_split() -> None:
    decoder = EventDecoder()
    raw = b'\xef\xbb\xbfdata: {"a":1}\n\n\xef\xbb\xbfdata: {"b":1}\n\ndata: {"c":1}\n\n'
    found = [event for i in range(len(raw)) for event in decoder.feed(raw[i : i + 1])]
    assert found == [{"a": 1}, {"c": 1}]


def test_lines_without_content_count_too() -> None:
    decoder = EventDecoder()
    piece = b"data:\n" * 100_000
    with pytest.raises(OutputTooLargeError):
        for _ in range(MAX_EVENT_BYTES // 100_000 + 2):
            list(decoder.feed(piece))


class Counting(bytearray):
    """Counts how many bytes are searched."""

    searched = 0

    def find(self, *args: Any) -> int:
        Counting.searched += len(self) - (args[1] if len(args) > 1 else 0)
        return super().find(*args)


def test_a_long_line_in_small_pieces_is_searched_once() -> None:
    decoder = EventDecoder()
    decoder._rest = Counting()
    Counting.searched = 0
    for _ in range(20_000):
        list(decoder.feed(b"x"))
    assert Counting.searched <= 20_000


def test_a_character_that_is_split_between_pieces(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    raw = 'data: {"stdout":"é"}\n\n'.encode()
    cut = raw.index(b"\xc3") + 1
    server.on("POST /exec/stream", events(raw[:cut], raw[cut:], {"exit_code": 0, "finished": True}))
    assert driver.do(sandbox.commands.run("c", on_stdout=lambda _: None)).stdout == "é"
