"""Key and address: found before any request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from superserve import AuthenticationError, ValidationError
from superserve._config import DEFAULT_BASE_URL, resolve
from support import KEY, Driver, HostileServer


@pytest.mark.parametrize("value", [None, "", "  ", "clé", "a\nb"])
def test_no_usable_key_is_an_error_before_any_request(
    driver: Driver, server: HostileServer, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.delenv("SUPERSERVE_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SUPERSERVE_API_KEY", value)
    calls: list[Callable[[], Any]] = [
        lambda: driver.Sandbox.create("x", base_url=server.url),
        lambda: driver.Sandbox.connect("x", base_url=server.url),
        lambda: driver.Sandbox.list(base_url=server.url),
        lambda: driver.Sandbox.kill_by_id("x", base_url=server.url),
        lambda: driver.Sandbox.update_by_id("x", metadata={}, base_url=server.url),
        lambda: driver.Template.list(base_url=server.url),
        lambda: driver.Template.get("x", base_url=server.url),
    ]
    for call in calls:
        with pytest.raises(AuthenticationError) as caught:
            driver.do(call())
        assert caught.value.status_code is None
    assert server.requests == []


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://h:99999", "http://h?q=1", "x"])
def test_bad_base_url(url: str) -> None:
    with pytest.raises(ValidationError):
        resolve(KEY, url)


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_API_KEY", "from-env")
    monkeypatch.setenv("SUPERSERVE_BASE_URL", "http://from-env/")
    assert (resolve().api_key, resolve().base_url) == ("from-env", "http://from-env")
    found = resolve("given", "https://given/prefix/")
    assert (found.api_key, found.base_url) == ("given", "https://given/prefix")


@pytest.mark.parametrize("value", [None, ""])
def test_default_base_url(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.delenv("SUPERSERVE_BASE_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("SUPERSERVE_BASE_URL", value)
    assert resolve(KEY).base_url == DEFAULT_BASE_URL == "https://api.superserve.ai"


def test_the_key_is_not_in_the_text_of_a_configuration() -> None:
    assert KEY not in repr(resolve(KEY))


def test_request_timeout_must_be_positive() -> None:
    with pytest.raises(ValidationError):
        resolve(KEY, None, 0)
