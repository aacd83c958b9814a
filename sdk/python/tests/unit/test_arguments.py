"""Arguments of the wrong type or form are named in a ValidationError before any request."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from superserve import AuthenticationError, BuildError, NetworkConfig, ValidationError
from superserve._config import resolve
from support import KEY, Driver, HostileServer, answer


def rules(entries: Any) -> NetworkConfig:
    """Rules of the wrong type."""
    return NetworkConfig(allow_out=entries, deny_out=entries)


BAD: dict[str, Callable[[Driver, Any], Any]] = {
    "idempotency_key accented": lambda d, s: d.Sandbox.create("n", idempotency_key="clé"),
    "idempotency_key number": lambda d, s: d.Sandbox.create("n", idempotency_key=5),
    "idempotency_key line": lambda d, s: d.Sandbox.create("n", idempotency_key="a\nb"),
    "idempotency_key empty": lambda d, s: d.Sandbox.create("n", idempotency_key=""),
    "idempotency_key long": lambda d, s: d.Template.create("n", idempotency_key="a" * 256),
    "metadata": lambda d, s: d.Sandbox.create("n", metadata=["a"]),
    "env_vars": lambda d, s: d.Sandbox.create("n", env_vars="A=b"),
    "network": lambda d, s: d.Sandbox.create("n", network=7),
    "allow_out": lambda d, s: d.Sandbox.create("n", network=rules("api.example")),
    "deny_out": lambda d, s: s.update(network=rules(7)),
    "from_template": lambda d, s: d.Sandbox.create("n", from_template=7),
    "update": lambda d, s: s.update(metadata=[]),
    "filter": lambda d, s: d.Sandbox.list(metadata="env"),
    "filter half": lambda d, s: d.Sandbox.list(metadata={"a": "\ud800"}),
    "name_prefix half": lambda d, s: d.Template.list(name_prefix="\ud800"),
    "args": lambda d, s: s.commands.run("c", args=5),
    "env": lambda d, s: s.commands.run("c", env=["A"]),
    "timeout": lambda d, s: s.commands.run("c", timeout_seconds="5"),
    "timeout spawn": lambda d, s: s.commands.spawn("c", timeout_seconds="5"),
    "content mapping": lambda d, s: s.files.write("/x", {"a": 1}),
    "upload_dir none": lambda d, s: s.files.upload_dir("/does/not/exist", "/x"),
    "upload_dir file": lambda d, s: s.files.upload_dir(__file__, "/x"),
    "request_timeout": lambda d, s: d.Sandbox.connect("x", request_timeout="5"),
    "base_url": lambda d, s: d.Sandbox.connect("x", base_url=5),
    "base_url dots": lambda d, s: d.Sandbox.connect("x", base_url="http://a..b"),
    "base_url label": lambda d, s: d.Sandbox.connect("x", base_url=f"http://{'a' * 64}.example"),
    "base_url space": lambda d, s: d.Sandbox.connect("x", base_url="http://a b"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_arguments(driver: Driver, server: HostileServer, sandbox: Any, case: str) -> None:
    before = len(server.requests)
    with pytest.raises(ValidationError) as caught:
        driver.do(BAD[case](driver, sandbox))
    assert caught.value.status_code is None
    assert len(server.requests) == before


def test_a_key_that_is_no_string() -> None:
    key: Any = 5
    with pytest.raises(AuthenticationError):
        resolve(key, "http://h")


@pytest.mark.parametrize("timeout", [1e300, 2_000_000, 604_800, 0, -100])
def test_timeouts_of_every_size(driver: Driver, server: HostileServer, sandbox: Any, timeout: float) -> None:
    server.on("POST /exec", answer(200, {"stdout": "", "stderr": "", "exit_code": 0}))
    driver.do(sandbox.commands.run("c", timeout_seconds=timeout))  # whether it makes sense is for the server to say
    assert server.requests[-1].json()["timeout_s"] == timeout


@pytest.mark.parametrize("timeout", [1e12, float("inf")])
def test_request_timeouts_without_end(driver: Driver, server: HostileServer, timeout: float) -> None:
    sandbox = driver.do(driver.Sandbox.create("n", api_key=KEY, base_url=server.url, request_timeout=timeout))
    driver.do(sandbox.close())


@pytest.mark.parametrize(
    ("given", "expected"),
    [("HTTP://Host:1/", "http://Host:1"), (" https://h/p// ", "https://h/p"), ("http://[::1]:1", "")],
)
def test_addresses_are_brought_into_one_form(given: str, expected: str) -> None:
    assert resolve(KEY, given).base_url == (expected or given)


def test_a_view_with_gaps(driver: Driver, server: HostileServer, sandbox: Any) -> None:
    server.on("POST /files", answer(200, {"path": "/x", "size": 2}))
    driver.do(sandbox.files.write("/x", memoryview(b"abcd")[::2]))
    assert server.requests[-1].body == b"ac"


def test_build_errors_pass_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BuildError("m", code="c", build_id="b", template_id="t")))
    assert (str(error), error.code, error.build_id, error.template_id) == ("m", "c", "b", "t")
