"""Values and matchers of the common scenarios (test/scenarios/README.md)."""

from __future__ import annotations

import base64
import dataclasses
import enum
import io
import re
import tarfile
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import yaml

REFERENCE = re.compile(r"\$\{([^}]*)\}")
TYPES: dict[str, Any] = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "date": datetime,
    "bytes": bytes,
    "list": list,
    "map": dict,
}


class Loader(yaml.SafeLoader):
    """YAML 1.2: PyYAML's own rules take ``on`` for a boolean."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _text, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_text})$"), _first)


class Missing(Exception):
    """A scenario names something that is not there."""


def plain(value: Any) -> Any:
    """A result as plain data; objects of the SDK stay as they are, for later steps."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def field(value: Any, name: str) -> Any:
    """A field of a result, None when it is not there; list entries by number."""
    if isinstance(value, list):
        return plain(value[int(name)]) if name.isdigit() and int(name) < len(value) else None
    if isinstance(value, dict):
        return plain(value.get(name))
    if not hasattr(value, name) and hasattr(value, "info"):
        return plain(getattr(value.info, name, None))
    return plain(getattr(value, name, None))


def look_up(path: str, names: Mapping[str, Any]) -> Any:
    """What ``${path}`` stands for."""
    first, *rest = path.split(".")
    if first not in names:
        raise Missing(f"unknown name {path!r}")
    value = names[first]
    for part in rest:
        value = field(value, part)
        if value is None:
            raise Missing(f"{path!r} is not there")
    return value


def resolve(value: Any, names: Mapping[str, Any]) -> Any:
    """value with its references and generated values filled in."""
    if isinstance(value, list):
        return [resolve(item, names) for item in value]
    if isinstance(value, dict):
        if len(value) == 1 and (key := next(iter(value))).startswith("$"):
            return generate(key, value[key], names)
        return {resolve(key, names): resolve(item, names) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if whole := REFERENCE.fullmatch(value):
        return look_up(whole[1], names)
    return REFERENCE.sub(lambda m: str(plain(look_up(m[1], names))), value)


def generate(kind: str, raw: Any, names: Mapping[str, Any]) -> Any:
    """A value such as ``{$repeat: ...}``."""
    if kind == "$bytes":
        return base64.b64decode(raw)
    spec = resolve(raw, names)
    if kind == "$tar":
        return packed(spec)
    if kind == "$repeat":
        return spec["text"] * spec["times"]
    if kind == "$list":
        return [spec["item"].replace("#", str(i)) for i in range(spec["count"])]
    if kind == "$map":
        return {numbered(spec["key"], i): numbered(spec["value"], i) for i in range(spec["count"])}
    raise Missing(f"unknown generated value {kind}")


def packed(files: Mapping[str, Any]) -> bytes:
    """A tar of files, by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def numbered(text: Any, i: int) -> Any:
    """text with its number filled in."""
    return text.replace("#", str(i)) if isinstance(text, str) else text


def same(value: Any, wanted: Any) -> bool:
    """Equality as ``equals`` means it."""
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            return False
        keys = {k for k in value if value[k] is not None} | {k for k in wanted if wanted[k] is not None}
        return all(same(value.get(k), wanted.get(k)) for k in keys)
    if isinstance(wanted, list):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(same, value, wanted))
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    return bool(value == wanted)


def is_type(value: Any, kind: str) -> bool:
    """Whether value is of a kind."""
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def number(value: Any) -> bool:
    """Whether value is a number."""
    return is_type(value, "number")


MATCHERS: dict[str, Any] = {
    "equals": lambda v, w: same(plain(v), w),
    "fields": lambda v, w: v is not None and all(holds(field(v, k), x) for k, x in w.items()),
    "length": lambda v, w: isinstance(v, (str, bytes, list, dict)) and holds(len(v), w),
    "contains": lambda v, w: w in v if isinstance(v, str) else isinstance(v, list) and any(holds(x, w) for x in v),
    "every": lambda v, w: isinstance(v, list) and all(holds(x, w) for x in v),
    "matches": lambda v, w: isinstance(v, str) and re.search(w, v) is not None,
    "type": is_type,
    "at_least": lambda v, w: number(v) and v >= w,
    "at_most": lambda v, w: number(v) and v <= w,
    "one_of": lambda v, w: any(holds(v, x) for x in w),
    "all_of": lambda v, w: all(holds(v, x) for x in w),
    "not": lambda v, w: not holds(v, w),
    "nothing": lambda v, w: (v is None) is w,
}


def holds(value: Any, wanted: Any) -> bool:
    """Whether a value or matcher holds."""
    if isinstance(wanted, dict) and wanted and all(key in MATCHERS for key in wanted):
        return all(MATCHERS[key](value, argument) for key, argument in wanted.items())
    return same(plain(value), wanted)
