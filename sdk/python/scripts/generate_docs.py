#!/usr/bin/env python3
"""Writes docs/reference.md from the docstrings. With --check it only says whether it fits."""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sys
import textwrap
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import superserve  # noqa: E402

TARGET = ROOT / "docs" / "reference.md"
CLASSES = ["Sandbox", "Commands", "Process", "Files", "FileStream", "Watch", "Template"]
INTRODUCTION = """<!-- Generated from the docstrings by scripts/generate_docs.py. Do not edit. -->
# Reference

`Sandbox` and the classes it hands out block. `AsyncSandbox`, `AsyncTemplate` and so on have the same members for
asyncio: methods are awaited, `with` is `async with`, `for` is `async for`, and callbacks may be coroutine functions.
`read_stream` and `watch` are not awaited; what they give is.
"""


def text(thing: object) -> str:
    """A docstring as Markdown."""
    return re.sub(r"``(.+?)``", r"`\1`", inspect.getdoc(thing) or "")


def nodes(cls: type[Any]) -> list[ast.stmt]:
    """What is written in a class, in that order."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    assert isinstance(tree.body[0], ast.ClassDef)
    return tree.body[0].body


def signature(node: ast.FunctionDef) -> str:
    """A method as it is called."""
    parameters = [a for a in node.args.args if a.arg not in ("self", "cls")]
    defaults: list[Any] = [None] * (len(parameters) - len(node.args.defaults)) + list(node.args.defaults)
    parts = [one(a, d) for a, d in zip(parameters, defaults)]
    if node.args.kwonlyargs:
        parts.append("*")
        parts += [one(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults)]
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(parts)}){result}"
    if len(line) <= 100:
        return line
    return f"{node.name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def one(argument: ast.arg, default: Any) -> str:
    """A parameter."""
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{kind}" + (f" = {ast.unparse(default)}" if default is not None else "")


def class_page(name: str) -> str:
    """A class with its properties and methods."""
    cls = getattr(superserve, name)
    found = [f"## {name}\n", text(cls) + "\n"]
    for node in nodes(cls):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        decorators = [ast.unparse(d) for d in node.decorator_list]
        member = inspect.getattr_static(cls, node.name)
        if "property" in decorators:
            returns = ast.unparse(node.returns) if node.returns else "object"
            found.append(f"### {name}.{node.name}\n\n`{returns}`, read-only. {text(member)}\n")
            continue
        function = member.__func__ if isinstance(member, classmethod) else member
        owner = name if isinstance(member, classmethod) else name[0].lower() + name[1:]
        found.append(f"### {name}.{node.name}\n\n```text\n{owner}.{signature(node)}\n```\n\n{text(function)}\n")
    return "\n".join(found)


def comments(cls: type[Any]) -> dict[str, str]:
    """The ``#:`` comments above the fields of a dataclass."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        stripped = line.strip()
        if stripped.startswith("#:"):
            above.append(stripped[2:].strip())
        elif match := re.match(r"(\w+): ", stripped):
            found[match[1]] = re.sub(r"``(.+?)``", r"`\1`", " ".join(above))
            above = []
        else:
            above = []
    return found


def type_page(name: str) -> str:
    """A dataclass or an enumeration."""
    cls: type[Any] = getattr(superserve, name)
    fields = is_dataclass(cls)
    found = [f"### {name}\n", text(cls) + "\n"]
    if fields:
        found.append("| field | type | |\n|---|---|---|")
        notes = comments(cls)
        for node in nodes(cls):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                kind = ast.unparse(node.annotation).replace("|", "\\|")
                found.append(f"| `{node.target.id}` | `{kind}` | {notes.get(node.target.id, '')} |")
        found.append("")
    elif issubclass(cls, enum.Enum):
        found.append(", ".join(f"`{cls.__name__}.{word.name}` (`{word.value}`)" for word in cls) + "\n")
    return "\n".join(found)


def page() -> str:
    """The whole reference."""
    names = [name for name in superserve.__all__ if inspect.isclass(getattr(superserve, name))]
    errors = [name for name in names if issubclass(getattr(superserve, name), Exception) and name != "SandboxError"]
    modules = ("superserve.types", "superserve.build_types")
    types = [name for name in names if getattr(superserve, name).__module__ in modules]
    errors.sort(key=lambda name: (name != "SuperserveError", name))
    parts = [INTRODUCTION, *(class_page(name) for name in CLASSES), "## Types\n", *(type_page(name) for name in types)]
    parts.append("## Errors\n")
    parts += [f"### {name}\n\n{text(getattr(superserve, name))}\n" for name in errors]
    parts.append("`SandboxError` is another name of `SuperserveError`.\n")
    return "\n".join(parts)


def main() -> int:
    """Writes or checks the page."""
    wanted = page()
    if "--check" not in sys.argv:
        TARGET.write_text(wanted)
        return 0
    if not TARGET.exists() or TARGET.read_text() != wanted:
        print("run scripts/generate_docs.py; docs/reference.md is not up to date", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
