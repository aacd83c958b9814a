"""What goes into calls and comes out of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, Optional, TypeVar, Union

from .errors import ValidationError, invalid_response

__all__ = [
    "CommandOutput",
    "CommandResult",
    "FileEvent",
    "FileInfo",
    "NetworkConfig",
    "NetworkEvent",
    "NetworkLogPage",
    "SandboxInfo",
    "SandboxStatus",
    "SessionInfo",
    "TemplateInfo",
    "TemplateStatus",
    "WrittenFile",
]

Json = dict[str, Any]


class Word(str, Enum):
    """A string enumeration that prints as its value and takes words that later servers may add."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)

    @classmethod
    def _missing_(cls, value: object) -> Optional[Word]:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = value.upper()
        word._value_ = value
        return word


class SandboxStatus(Word):
    """Status of a sandbox. Compares equal to its string, so ``info.status == "active"`` works.

    ``active``: running and ready for commands. ``paused``: stopped, its state is on disk. ``resuming``: briefly, while
    a paused one is brought back. ``failed``: it could not boot or resume; it remains until it is deleted.
    """

    ACTIVE = "active"
    PAUSED = "paused"
    RESUMING = "resuming"
    FAILED = "failed"


class TemplateStatus(Word):
    """Status of a template: ``pending``, ``building``, ``ready`` or ``failed``."""

    PENDING = "pending"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class NetworkConfig:
    """Rules for outgoing connections. Allow wins over deny; without rules all public addresses are allowed."""

    #: IP addresses, CIDRs, domains or ``*.domain`` patterns.
    allow_out: Optional[list[str]] = None
    #: CIDRs only; ``0.0.0.0/0`` denies everything.
    deny_out: Optional[list[str]] = None


@dataclass(frozen=True)
class SandboxInfo:
    """The state of a sandbox at the time of the call. Optional fields are None when they do not apply."""

    id: str
    name: str
    status: SandboxStatus
    #: Virtual CPUs.
    vcpu_count: int
    #: Memory, in MiB.
    memory_mib: int
    #: In UTC.
    created_at: datetime
    #: Cap on the lifetime in seconds; what happens then is ``timeout_action``.
    timeout_seconds: Optional[int] = None
    network: Optional[NetworkConfig] = None
    metadata: dict[str, str] = field(default_factory=dict)
    #: ``pause`` (counts active time) or ``delete`` (counts from creation).
    timeout_action: Optional[str] = None
    #: When the timeout acts; None while none is running.
    expires_at: Optional[datetime] = None
    #: Delete after this many seconds of being paused.
    auto_delete_seconds: Optional[int] = None
    #: When it is deleted; only while paused.
    auto_delete_at: Optional[datetime] = None
    #: Writable disk, in MiB.
    disk_mib: Optional[int] = None
    template_id: Optional[str] = None
    #: The latest snapshot; None before the first pause.
    snapshot_id: Optional[str] = None
    #: The snapshot it was created from.
    source_snapshot_id: Optional[str] = None
    #: For people; only when failed.
    failure_reason: Optional[str] = None


@dataclass(frozen=True)
class CommandResult:
    """A command that ended."""

    stdout: str = ""
    stderr: str = ""
    #: 124 after a timeout, 128+n when killed by signal n.
    exit_code: int = 0
    #: The middle of a stream was left out because it is larger than 4 MiB.
    truncated: bool = False


@dataclass(frozen=True)
class CommandOutput:
    """A piece of a process's output."""

    #: ``stdout`` or ``stderr``.
    stream: str
    #: The bytes as they came.
    data: bytes
    #: The same as text; a character that is cut by the end of ``data`` comes with the next piece.
    text: str


@dataclass(frozen=True)
class SessionInfo:
    """A command session, running or recently ended."""

    session_id: str
    command: str
    pid: int
    started_at: datetime
    #: None while it runs.
    exit_code: Optional[int] = None


@dataclass(frozen=True)
class FileInfo:
    """A file in a sandbox."""

    #: Base name.
    name: str
    path: str
    #: ``file``, ``directory``, ``symlink`` or ``other``.
    type: str
    #: Bytes.
    size: int
    #: Permissions as four octal digits, such as ``0644``.
    mode: str
    modified_at: datetime


@dataclass(frozen=True)
class WrittenFile:
    """What an upload wrote."""

    path: str
    #: Bytes.
    size: int


@dataclass(frozen=True)
class FileEvent:
    """A change that a watch saw."""

    #: ``create``, ``write``, ``remove``, ``rename``, or ``overflow``: changes came too fast and some are missing.
    event: str
    #: Absolute; of a rename the old one, of an overflow empty.
    path: str


@dataclass(frozen=True)
class TemplateInfo:
    """What sandboxes are made from."""

    id: str
    name: str
    team_id: str
    status: TemplateStatus
    #: Virtual CPUs of its sandboxes.
    vcpu: int
    #: Their memory, in MiB.
    memory_mib: int
    #: Their writable disk, in MiB.
    disk_mib: int
    created_at: datetime
    size_bytes: Optional[int] = None
    error_message: Optional[str] = None
    built_at: Optional[datetime] = None
    latest_build_id: Optional[str] = None
    #: What a build under way is doing now, for people.
    progress: Optional[str] = None


@dataclass(frozen=True)
class NetworkEvent:
    """A row of the network log."""

    #: ``request`` for a DNS query, else ``connection``.
    kind: str
    #: Tells the rows of a sandbox apart.
    id: Union[int, str]
    #: When it began.
    ts: datetime
    #: The name it was for, when one is known.
    host: Optional[str] = None
    dst_ip: Optional[str] = None
    dst_port: Optional[int] = None
    #: ``tcp``, ``tls``, ``http``, ``udp``, ``icmp`` or ``dns``.
    protocol: Optional[str] = None
    #: ``allowed``, ``blocked`` or ``failed``.
    verdict: Optional[str] = None
    #: What decided, for people.
    match_rule: Optional[str] = None
    #: By the sandbox; None while a connection is open.
    bytes_sent: Optional[int] = None
    bytes_recv: Optional[int] = None
    #: How many attempts the row stands for, when it is not one: under a flood rows are summed.
    count: Optional[int] = None


@dataclass(frozen=True)
class NetworkLogPage:
    """A page of the network log, newest first."""

    events: list[NetworkEvent]
    #: Pass as ``before`` to get the next page; None on the last.
    next_cursor: Optional[str] = None
    has_more: bool = False


_T = TypeVar("_T")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))")


def timestamp(text: object) -> datetime:
    """RFC 3339 with any number of fractional digits; ``datetime.fromisoformat`` takes that only from Python 3.11 on."""
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise invalid_response(f"{text!r:.40} is no timestamp")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    micro = int((match[7] or "0").ljust(6, "0")[:6])
    shift = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0))
    zone = timezone(-shift if match[8] == "-" else shift) if shift else timezone.utc
    try:
        return datetime(year, month, day, hour, minute, min(second, 59), micro, zone)
    except ValueError as error:
        raise invalid_response(f"{text!r:.40} is no timestamp") from error


def take(raw: Json, key: str, kind: type[_T]) -> _T:
    """A field that has to be there."""
    value = raw.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise invalid_response(f"field {key!r} is missing or of the wrong type")
    return value


def maybe(raw: Json, key: str, kind: type[_T]) -> Optional[_T]:
    """A field that may be absent or null."""
    return None if raw.get(key) is None else take(raw, key, kind)


def maybe_time(raw: Json, key: str) -> Optional[datetime]:
    """A timestamp that may be absent or null."""
    return None if raw.get(key) is None else timestamp(raw[key])


def as_object(raw: object) -> Json:
    """raw, when it is a JSON object."""
    if not isinstance(raw, dict):
        raise invalid_response("not a JSON object")
    return raw


def as_list(raw: object) -> list[Any]:
    """raw, when it is a JSON array."""
    if not isinstance(raw, list):
        raise invalid_response("not a JSON array")
    return raw


def strings(raw: object) -> dict[str, str]:
    """A map of strings; None is empty."""
    if raw is None:
        return {}
    found = as_object(raw)
    if not all(isinstance(value, str) for value in found.values()):
        raise invalid_response("metadata with values that are no strings")
    return dict(found)


def _network(raw: object) -> Optional[NetworkConfig]:
    if raw is None:
        return None
    found = as_object(raw)
    return NetworkConfig(_words(found, "allow_out"), _words(found, "deny_out"))


def _words(raw: Json, key: str) -> Optional[list[str]]:
    words = maybe(raw, key, list)
    if words is not None and not all(isinstance(word, str) for word in words):
        raise invalid_response(f"field {key!r} holds what is no string")
    return words


def sandbox_info(raw: object) -> SandboxInfo:
    """A Sandbox of the wire."""
    o = as_object(raw)
    return SandboxInfo(
        id=take(o, "id", str),
        name=take(o, "name", str),
        status=SandboxStatus(take(o, "status", str)),
        vcpu_count=take(o, "vcpu_count", int),
        memory_mib=take(o, "memory_mib", int),
        created_at=timestamp(o.get("created_at")),
        timeout_seconds=maybe(o, "timeout_seconds", int),
        network=_network(o.get("network")),
        metadata=strings(o.get("metadata")),
        timeout_action=maybe(o, "timeout_action", str),
        expires_at=maybe_time(o, "expires_at"),
        auto_delete_seconds=maybe(o, "auto_delete_seconds", int),
        auto_delete_at=maybe_time(o, "auto_delete_at"),
        disk_mib=maybe(o, "disk_mib", int),
        template_id=maybe(o, "template_id", str),
        snapshot_id=maybe(o, "snapshot_id", str),
        source_snapshot_id=maybe(o, "source_snapshot_id", str),
        failure_reason=maybe(o, "failure_reason", str),
    )


def template_info(raw: object) -> TemplateInfo:
    """A Template of the wire."""
    o = as_object(raw)
    return TemplateInfo(
        id=take(o, "id", str),
        name=take(o, "name", str),
        team_id=take(o, "team_id", str),
        status=TemplateStatus(take(o, "status", str)),
        vcpu=take(o, "vcpu", int),
        memory_mib=take(o, "memory_mib", int),
        disk_mib=take(o, "disk_mib", int),
        created_at=timestamp(o.get("created_at")),
        size_bytes=maybe(o, "size_bytes", int),
        error_message=maybe(o, "error_message", str),
        built_at=maybe_time(o, "built_at"),
        latest_build_id=maybe(o, "latest_build_id", str),
        progress=maybe(o, "progress", str),
    )


def command_result(raw: object) -> CommandResult:
    """An ExecResult of the wire."""
    o = as_object(raw)
    truncated = maybe(o, "truncated", bool)
    return CommandResult(take(o, "stdout", str), take(o, "stderr", str), take(o, "exit_code", int), bool(truncated))


def session_info(raw: object) -> SessionInfo:
    """A session of the wire."""
    o = as_object(raw)
    return SessionInfo(
        session_id=take(o, "session_id", str),
        command=take(o, "command", str),
        pid=take(o, "pid", int),
        started_at=timestamp(o.get("started_at")),
        exit_code=maybe(o, "exit_code", int),
    )


def file_info(raw: object) -> FileInfo:
    """A FileInfo of the wire."""
    o = as_object(raw)
    return FileInfo(
        name=take(o, "name", str),
        path=take(o, "path", str),
        type=take(o, "type", str),
        size=take(o, "size", int),
        mode=take(o, "mode", str),
        modified_at=timestamp(o.get("modified_at")),
    )


def written_file(raw: object) -> WrittenFile:
    """A FileWritten of the wire."""
    o = as_object(raw)
    return WrittenFile(take(o, "path", str), take(o, "size", int))


def network_log_page(raw: object) -> NetworkLogPage:
    """A page of the network log of the wire."""
    o = as_object(raw)
    events = [_network_event(as_object(row)) for row in take(o, "data", list)]
    return NetworkLogPage(events, maybe(o, "next_cursor", str), bool(maybe(o, "has_more", bool)))


def _network_event(o: Json) -> NetworkEvent:
    number = o.get("id")
    return NetworkEvent(
        kind=take(o, "kind", str),
        id=number if isinstance(number, int) else take(o, "id", str),
        ts=timestamp(o.get("ts")),
        host=maybe(o, "host", str),
        dst_ip=maybe(o, "dst_ip", str),
        dst_port=maybe(o, "dst_port", int),
        protocol=maybe(o, "protocol", str),
        verdict=maybe(o, "verdict", str),
        match_rule=maybe(o, "match_rule", str),
        bytes_sent=maybe(o, "bytes_sent", int),
        bytes_recv=maybe(o, "bytes_recv", int),
        count=maybe(o, "count", int),
    )


def network_to_wire(network: Union[NetworkConfig, Mapping[str, Any]]) -> Json:
    """The wire's form of network rules; a mapping is passed on as it is, for the server to judge."""
    if isinstance(network, Mapping):
        return dict(network)
    if not isinstance(network, NetworkConfig):
        raise ValidationError(f"network must be a NetworkConfig or a mapping, not {type(network).__name__}")
    found = {"allow_out": network.allow_out, "deny_out": network.deny_out}
    for key, value in found.items():
        if value is not None and not isinstance(value, (list, tuple, set, frozenset)):
            raise ValidationError(f"{key} must be a list of strings, not {type(value).__name__}")
    return {key: list(value) for key, value in found.items() if value is not None}
