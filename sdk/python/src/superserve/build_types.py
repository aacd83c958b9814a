"""What goes into builds of templates and comes out of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from typing import Any, Optional, Union

from .errors import ValidationError
from .types import Json, Word, as_object, maybe, maybe_time, take, timestamp

__all__ = [
    "BuildLogEvent",
    "BuildLogStream",
    "BuildStep",
    "CopyStep",
    "CopyStepValue",
    "EnvStep",
    "EnvStepValue",
    "RunStep",
    "TemplateBuildInfo",
    "TemplateBuildStatus",
    "TemplateImageUpload",
    "TemplateUpload",
    "UserStep",
    "UserStepValue",
    "WorkdirStep",
]


class TemplateBuildStatus(Word):
    """Status of a build: ``pending``, ``building`` and ``snapshotting`` are followed by one of the others, the end."""

    PENDING = "pending"
    BUILDING = "building"
    SNAPSHOTTING = "snapshotting"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BuildLogStream(Word):
    """Where a line of a build's log is from; ``system`` lines are the builder's own, such as where a step begins."""

    STDOUT = "stdout"
    STDERR = "stderr"
    SYSTEM = "system"


@dataclass(frozen=True)
class TemplateBuildInfo:
    """One attempt to make a template."""

    id: str
    template_id: str
    status: TemplateBuildStatus
    #: Identifies what it was asked to do.
    build_spec_hash: str
    created_at: datetime
    #: ``<code>: detail``, of one that failed or was cancelled; the codes are those of BuildError.
    error_message: Optional[str] = None
    #: The digest that ``from_`` stood for, once it is known.
    source_digest: Optional[str] = None
    started_at: Optional[datetime] = None
    finalized_at: Optional[datetime] = None


@dataclass(frozen=True)
class TemplateUpload:
    """What the server has received."""

    #: SHA-256 of the bytes sent, as ``sha256:...``.
    digest: str
    #: How many bytes were sent.
    size_bytes: int


@dataclass(frozen=True)
class TemplateImageUpload(TemplateUpload):
    """An image that the server has received: a ``TemplateUpload`` with one more field."""

    #: What ``from_`` of a template that starts with it is: ``upload:`` and the digest.
    from_: str


@dataclass(frozen=True)
class BuildLogEvent:
    """One line of a build's log."""

    timestamp: datetime
    stream: BuildLogStream
    #: Without its line end.
    text: str = ""
    #: True in the last event.
    finished: bool = False
    #: How the build ended; only in the last event.
    status: Optional[TemplateBuildStatus] = None


@dataclass(frozen=True)
class RunStep:
    """Runs a command by ``/bin/sh -c``, as the current user in the current directory."""

    run: str


@dataclass(frozen=True)
class EnvStepValue:
    """A variable."""

    key: str
    value: str
    #: Replace ``${NAME}`` by that variable's value at this step, and ``$$`` by a dollar sign.
    expand: bool = False


@dataclass(frozen=True)
class EnvStep:
    """Sets a variable of later steps and of the sandboxes."""

    env: EnvStepValue


@dataclass(frozen=True)
class WorkdirStep:
    """Where later steps and the sandboxes' commands start; made when there is none."""

    workdir: str


@dataclass(frozen=True)
class UserStepValue:
    """A user."""

    name: str
    #: It may run anything as root without a password.
    sudo: bool = False


@dataclass(frozen=True)
class UserStep:
    """Who runs later steps and the sandboxes' commands; made when there is none."""

    user: UserStepValue


@dataclass(frozen=True)
class CopyStepValue:
    """Files of a build context, sent by ``Template.upload_context``."""

    #: The digest that returned.
    context: str
    #: Paths in it; ``.`` is all of it. Of a directory its contents are copied.
    src: list[str]
    #: Where to. A directory when it ends in ``/``, and when several files come.
    dst: str
    #: ``user[:group]``; default root.
    chown: Optional[str] = None


@dataclass(frozen=True)
class CopyStep:
    """Puts files of a build context into the image."""

    copy: CopyStepValue


#: A step of a build; those after it are done with its result.
BuildStep = Union[RunStep, EnvStep, WorkdirStep, UserStep, CopyStep]
Steps = Sequence[Union[BuildStep, Mapping[str, Any]]]
LogCallback = Callable[[BuildLogEvent], object]


def build_info(raw: object) -> TemplateBuildInfo:
    """A Build of the wire."""
    o = as_object(raw)
    return TemplateBuildInfo(
        id=take(o, "id", str),
        template_id=take(o, "template_id", str),
        status=TemplateBuildStatus(take(o, "status", str)),
        build_spec_hash=take(o, "build_spec_hash", str),
        created_at=timestamp(o.get("created_at")),
        error_message=maybe(o, "error_message", str),
        source_digest=maybe(o, "source_digest", str),
        started_at=maybe_time(o, "started_at"),
        finalized_at=maybe_time(o, "finalized_at"),
    )


def build_log_event(raw: object) -> BuildLogEvent:
    """A BuildLogEvent of the wire."""
    o = as_object(raw)
    status = maybe(o, "status", str)
    return BuildLogEvent(
        timestamp=timestamp(o.get("timestamp")),
        stream=BuildLogStream(take(o, "stream", str)),
        text=take(o, "text", str),
        finished=bool(maybe(o, "finished", bool)),
        status=None if status is None else TemplateBuildStatus(status),
    )


def template_upload(raw: object) -> TemplateUpload:
    """An Upload of the wire."""
    o = as_object(raw)
    return TemplateUpload(digest=take(o, "digest", str), size_bytes=take(o, "size", int))


def steps_to_wire(steps: Steps) -> list[Json]:
    """The wire's form of steps; a mapping is passed on as it is, for the server to judge."""
    found = []
    for step in steps:
        if isinstance(step, Mapping):
            found.append(dict(step))
        elif is_dataclass(step) and not isinstance(step, type):
            found.append(asdict(step))
        else:
            raise ValidationError(f"a step must be a mapping or an object such as RunStep, not {type(step).__name__}")
    return found
