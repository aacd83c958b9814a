"""Fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from support import KEY, Driver, HostileServer


@pytest.fixture(params=["sync", "async"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Each of the two clients."""
    found = Driver(request.param)
    yield found
    found.close()


@pytest.fixture
def server() -> Iterator[HostileServer]:
    """A server whose answers the test chooses."""
    found = HostileServer()
    yield found
    found.close()


@pytest.fixture
def sandbox(driver: Driver, server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A sandbox of that server."""
    monkeypatch.setenv("SUPERSERVE_API_KEY", KEY)
    monkeypatch.setenv("SUPERSERVE_BASE_URL", server.url)
    found = driver.do(driver.Sandbox.create("test", request_timeout=2))
    yield found
    driver.do(found.close())


@pytest.fixture
def live(driver: Driver) -> Iterator[Any]:
    """A sandbox of a real server."""
    assert os.environ.get("SUPERSERVE_BASE_URL"), "set SUPERSERVE_BASE_URL and SUPERSERVE_API_KEY"
    found = driver.do(driver.Sandbox.create("python-sdk-test", timeout_seconds=600, timeout_action="delete"))
    yield found
    driver.do(found.kill())
