"""GET and DELETE are tried three times, POST and PATCH once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

import superserve
from superserve._http import Attempt, retry_after
from support import KEY, SANDBOX_ID, Driver, HostileServer, answer, drop, error

GET = f"GET /sandboxes/{SANDBOX_ID}"
DELETE = f"DELETE /sandboxes/{SANDBOX_ID}"
FAULTS: list[Any] = [error(429, "rate_limited"), error(502, "x"), error(503, "unavailable"), error(504, "x"), drop()]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superserve._http.random.random", lambda: -0.45)


@pytest.mark.parametrize("fault", FAULTS)
def test_get_succeeds_at_the_third_attempt(driver: Driver, server: HostileServer, sandbox: Any, fault: Any) -> None:
    server.on(GET, fault, fault, answer(200, server.sandbox()))
    assert driver.do(sandbox.get_info()).id == SANDBOX_ID
    assert len(server.seen(GET)) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_get_gives_up_after_three(driver: Driver, server: HostileServer, sandbox: Any, fault: Any) -> None:
    server.on(GET, fault)
    with pytest.raises(superserve.SuperserveError):
        driver.do(sandbox.get_info())
    assert len(server.seen(GET)) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_delete_is_tried_again(driver: Driver, server: HostileServer, sandbox: Any, fault: Any) -> None:
    server.on(DELETE, fault, answer(204, b"", {"Content-Length": "0"}))
    driver.do(sandbox.kill())
    assert len(server.seen(DELETE)) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_post_and_patch_are_not(driver: Driver, server: HostileServer, sandbox: Any, fault: Any) -> None:
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("POST /sandboxes", lambda: driver.Sandbox.create("n", api_key=KEY, base_url=server.url)),
        (f"PATCH /sandboxes/{SANDBOX_ID}", lambda: sandbox.update(metadata={})),
        (f"POST /sandboxes/{SANDBOX_ID}/pause", sandbox.pause),
        ("POST /exec", lambda: sandbox.commands.run("true")),
        ("POST /files", lambda: sandbox.files.write("/x", b"")),
    ]
    for route, call in calls:
        server.on(route, fault)
        before = len(server.seen(route))
        with pytest.raises(superserve.SuperserveError):
            driver.do(call())
        assert len(server.seen(route)) == before + 1, route


@pytest.mark.parametrize("status", [400, 401, 404, 409, 500, 507])
def test_other_errors_are_final(driver: Driver, server: HostileServer, sandbox: Any, status: int) -> None:
    server.on(GET, error(status, "x"))
    with pytest.raises(superserve.SuperserveError):
        driver.do(sandbox.get_info())
    assert len(server.seen(GET)) == 1


def test_a_deletion_whose_answer_got_lost_has_happened(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("DELETE /files", drop(), error(404, "not_found"))
    driver.do(sandbox.files.remove("/x"))
    server.on("DELETE /files", error(404, "not_found"))
    with pytest.raises(superserve.NotFoundError):
        driver.do(sandbox.files.remove("/x"))


def test_a_download_that_breaks_off_is_tried_again(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    def half(connection: Any, _: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        raise ConnectionAbortedError

    server.on("GET /files", half, answer(200, b"whole file"))
    assert driver.do(sandbox.files.read("/x")) == b"whole file"


def test_the_server_says_how_long_to_wait(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(GET, error(503, "unavailable", {"Retry-After": "1"}), answer(200, server.sandbox()))
    start = time.monotonic()
    driver.do(sandbox.get_info())
    assert 1 <= time.monotonic() - start < 3


def test_a_wait_that_is_too_long_is_left_to_the_caller(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on(GET, error(429, "rate_limited", {"Retry-After": "3600"}))
    with pytest.raises(superserve.RateLimitError) as caught:
        driver.do(sandbox.get_info())
    assert (caught.value.retry_after, len(server.seen(GET))) == (3600, 1)


def test_the_waits_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = superserve.ServerError("x", 503)
    for value, expected in ((0.0, [0.125, 0.25]), (1.0, [0.375, 0.75])):
        monkeypatch.setattr("superserve._http.random.random", lambda value=value: value)
        attempt = Attempt("GET")
        assert [attempt.delay(fault), attempt.delay(fault), attempt.delay(fault)] == [*expected, None]


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("3", 3, 3), (" 3 ", 3, 3), ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0), ("Fri, 01 Jan 2100 00:00:00 GMT", 1e8, 1e10)],
)
def test_retry_after(value: str, low: float, high: float) -> None:
    found = retry_after(value)
    assert found is not None and low <= found <= high


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5"])
def test_retry_after_that_says_nothing(value: Any) -> None:
    assert retry_after(value) is None
