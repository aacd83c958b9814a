"""Checks that need no server, and the request bodies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Protocol, Union
from urllib.parse import quote

from .build_types import Steps, steps_to_wire
from .errors import ValidationError
from .types import Json, NetworkConfig, network_to_wire

MAX_PATH_BYTES = 4096


class Unset:
    """The type of :data:`UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


#: Tells "not given" from None where None means "remove".
UNSET = Unset()

Network = Union[NetworkConfig, Mapping[str, Any]]


def path(value: object) -> str:
    """A file path in a sandbox: absolute, without ``..`` segments, at most 4096 bytes."""
    if not isinstance(value, str):
        raise ValidationError(f"a path must be a string, not {type(value).__name__}")
    if not value.startswith("/"):
        raise ValidationError(f"the path {value!r:.100} must start with /")
    if ".." in value.split("/"):
        raise ValidationError(f"the path {value!r:.100} must not have .. segments")
    if "\0" in value:
        raise ValidationError("a path must not have NUL characters")
    if len(utf8(value, "the path")) > MAX_PATH_BYTES:
        raise ValidationError(f"a path must be at most {MAX_PATH_BYTES} bytes")
    return value


def utf8(text: str, what: str) -> bytes:
    """text as UTF-8; half of a surrogate pair cannot be sent."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(f"{what} is not valid Unicode") from error


def segment(value: object, what: str) -> str:
    """An id or a name as one segment of a URL's path."""
    if not isinstance(value, str) or value in ("", ".", ".."):
        raise ValidationError(f"{what} must be a non-empty string")
    return quote(utf8(value, what), safe="")


def to_json(value: object) -> bytes:
    """value as JSON."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"an argument cannot be sent as JSON: {error}") from error


def given(**fields: Any) -> Json:
    """The fields that are not None."""
    return {key: value for key, value in fields.items() if value is not None}


class HasId(Protocol):
    """A template object."""

    @property
    def id(self) -> str:
        """Its UUID."""


def mapping(value: object, what: str) -> Optional[Json]:
    """A mapping as JSON has it."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValidationError(f"{what} must be a mapping of strings, not {type(value).__name__}")
    return dict(value)


def idempotency(key: object) -> dict[str, str]:
    """The header that makes a request safe to send again."""
    if key is None:
        return {}
    if not (isinstance(key, str) and re.fullmatch("[!-~](?:[ -~]{0,253}[!-~])?", key)):
        raise ValidationError("idempotency_key must be 1 to 255 printable ASCII characters")
    return {"Idempotency-Key": key}


def template_ref(template: Union[str, HasId, None]) -> Optional[str]:
    """A template as a request names it."""
    if isinstance(template, str) or template is None:
        return template
    if not isinstance(getattr(template, "id", None), str):
        raise ValidationError(f"from_template must be a name, an id or a template, not {type(template).__name__}")
    return template.id


def build_body(
    from_: Optional[str],
    from_template: Union[str, HasId, None],
    steps: Optional[Steps],
    start_cmd: Optional[str],
    ready_cmd: Optional[str],
    vcpu: Optional[int],
    memory_mib: Optional[int],
    disk_mib: Optional[int],
) -> Json:
    """What is to be built; a part of which nothing is given is left out."""
    spec = given(
        from_template=template_ref(from_template),
        steps=None if steps is None else steps_to_wire(steps),
        start_cmd=start_cmd,
        ready_cmd=ready_cmd,
    )
    if from_ is not None:
        spec["from"] = from_
    return given(vcpu=vcpu, memory_mib=memory_mib, disk_mib=disk_mib, build_spec=spec or None)


def list_query(
    metadata: Optional[Mapping[str, str]], status: Optional[str], limit: int, offset: int
) -> list[tuple[str, str]]:
    """The query of a list of sandboxes."""
    query = [(f"metadata.{key}", value) for key, value in (mapping(metadata, "metadata") or {}).items()]
    if not all(isinstance(value, str) for _, value in query):
        raise ValidationError("metadata values must be strings")
    if status is not None:
        query.append(("status", str(status)))
    return [*query, ("limit", str(limit)), ("offset", str(offset))]


def update_body(
    metadata: Optional[Mapping[str, str]],
    network: Optional[Network],
    timeout_seconds: Union[int, None, Unset],
    timeout_action: Optional[str],
    auto_delete_seconds: Union[int, None, Unset],
) -> Json:
    """The body of a PATCH."""
    body = given(
        metadata=mapping(metadata, "metadata"),
        network=None if network is None else network_to_wire(network),
        timeout_action=timeout_action,
    )
    if not isinstance(timeout_seconds, Unset):
        body["timeout_seconds"] = timeout_seconds
    if not isinstance(auto_delete_seconds, Unset):
        body["auto_delete_seconds"] = auto_delete_seconds
    return body


def exec_body(
    command: str,
    args: Optional[Sequence[str]],
    cwd: Optional[str],
    env: Optional[Mapping[str, str]],
    user: Optional[str],
    timeout_seconds: Optional[float],
) -> Json:
    """The body that starts a command."""
    if args is not None and (isinstance(args, (str, bytes)) or not isinstance(args, Iterable)):
        raise ValidationError(f"args must be a list of strings, not {type(args).__name__}")
    if timeout_seconds is not None and not isinstance(timeout_seconds, (int, float)):
        raise ValidationError(f"timeout_seconds must be a number, not {type(timeout_seconds).__name__}")
    return given(
        command=command,
        args=None if args is None else list(args),
        env=mapping(env, "env"),
        working_dir=cwd,
        user=user,
        timeout_s=timeout_seconds,
    )
