"""The parts that need no connection, and that both clients are the same."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import superserve
from superserve._collect import Kept, TextPieces
from superserve._sse import EventDecoder
from superserve.types import timestamp

ROOT = Path(__file__).resolve().parent.parent.parent
PAIRS = ["Sandbox", "Commands", "Files", "Process", "Template", "FileStream", "Watch"]
DUNDERS = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__", "__anext__": "__next__"}


def members(cls: type[Any]) -> dict[str, Any]:
    """The public members and those of protocols, by the blocking client's names."""
    found = {DUNDERS.get(name, name): inspect.getattr_static(cls, name) for name in dir(cls)}
    return {name: value for name, value in found.items() if not name.startswith("_") or name in DUNDERS.values()}


def signature(member: Any) -> Any:
    """What a caller has to know: names, kinds, defaults."""
    function = member.__func__ if isinstance(member, classmethod) else member
    if isinstance(member, property):
        return "property"
    parameters = inspect.signature(function).parameters.values()
    return type(member).__name__, [(p.name, p.kind, p.default) for p in parameters]


@pytest.mark.parametrize("name", PAIRS)
def test_both_clients_have_the_same_members(name: str) -> None:
    blocking = members(getattr(superserve, name))
    other = members(getattr(superserve, "Async" + name))
    assert blocking.keys() == other.keys()
    for member in blocking:
        assert signature(blocking[member]) == signature(other[member]), member


@pytest.mark.parametrize("name", ["generate_sync.py", "generate_docs.py"])
def test_generated_files_are_up_to_date(name: str) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / name, "--check"], check=True)


def test_everything_public_is_documented() -> None:
    for name in superserve.__all__:
        thing = getattr(superserve, name)
        if inspect.isclass(thing):
            assert thing.__doc__, name
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod))):
                    assert inspect.getdoc(getattr(thing, member)), f"{name}.{member}"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_events_however_they_are_split(step: int, newline: bytes) -> None:
    raw = b'data: {"a":"\xc3\xa9"}\n\n: comment\n\nevent: x\nid: 1\ndata:{"b":\ndata: 2}\n\n\n\ndata: {"c":3}\n\ndata: {"cut'
    raw = raw.replace(b"\n", newline)
    decoder = EventDecoder()
    found = [event for i in range(0, len(raw), step) for event in decoder.feed(raw[i : i + step])]
    assert found == [{"a": "é"}, {"b": 2}, {"c": 3}]


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 15, 16, 100])
@pytest.mark.parametrize("step", [1, 3, 100])
def test_kept_output(size: int, step: int) -> None:
    data = bytes(97 + i % 26 for i in range(size))
    kept = Kept(10)
    for start in range(0, size, step):
        kept.add(data[start : start + step])
    text = kept.text()
    if size <= 10:
        assert (text, kept.truncated) == (data.decode(), False)
    else:
        assert (text, kept.truncated) == (f"{data[:5].decode()}\n[... output left out ...]\n{data[-5:].decode()}", True)


def test_text_pieces() -> None:
    pieces = TextPieces()
    assert [pieces.add(piece) for piece in (b"a\xc3", b"\xa9", b"\xff", b"b")] == ["a", "é", "\ufffd", "b"]


@pytest.mark.parametrize(
    ("text", "micro"),
    [
        ("2026-01-02T03:04:05Z", 0),
        ("2026-01-02T03:04:05.1Z", 100_000),
        ("2026-01-02T03:04:05.123Z", 123_000),
        ("2026-01-02T03:04:05.123456789Z", 123_456),
        ("2026-01-02T03:04:05.5+00:00", 500_000),
    ],
)
def test_timestamps(text: str, micro: int) -> None:
    assert timestamp(text) == datetime(2026, 1, 2, 3, 4, 5, micro, timezone.utc)


def test_timestamps_with_a_zone() -> None:
    assert timestamp("2026-01-02T03:04:05-01:30").utcoffset() == -timedelta(hours=1, minutes=30)


@pytest.mark.parametrize(
    "text", [None, 7, "", "yesterday", "2026-01-02", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05"]
)
def test_what_is_no_timestamp(text: Any) -> None:
    with pytest.raises(superserve.ServerError):
        timestamp(text)


def test_status_is_a_string() -> None:
    status = superserve.SandboxStatus.ACTIVE
    assert status == "active" and f"{status:>8}" == "  active" and json.dumps(status) == '"active"'
    assert superserve.SandboxStatus("other") == "other"
    with pytest.raises(ValueError):
        superserve.SandboxStatus(7)


def test_errors_have_the_names_of_other_releases() -> None:
    assert superserve.SandboxError is superserve.SuperserveError
    for name in (
        "AuthenticationError",
        "ValidationError",
        "NotFoundError",
        "ConflictError",
        "RateLimitError",
        "ServerError",
        "SandboxTimeoutError",
        "SandboxConnectionError",
        "OutputTooLargeError",
    ):
        cls = getattr(superserve, name)
        raised = cls("text", 400, "code")
        assert isinstance(raised, superserve.SuperserveError)
        assert (str(raised), raised.status_code, raised.code, raised.retry_after) == ("text", 400, "code", None)
