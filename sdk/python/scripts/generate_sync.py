#!/usr/bin/env python3
"""Writes src/superserve/_sync from src/superserve/_async. With --check it only says whether they fit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "superserve"
HEADER = "# Generated from _async/{name} by scripts/generate_sync.py. Do not edit.\n"
RULES = [
    (r"Awaitable\[(\w+)\]", r"\1"),
    (
        r"from collections\.abc import AsyncIterator, Awaitable, Callable",
        "from collections.abc import Callable, Iterator",
    ),
    (r"from collections\.abc import AsyncIterator", "from collections.abc import Iterator"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\baclose\b", "close"),
    (r"\baiter_raw\b", "iter_raw"),
    (r"\b_async_io\b", "_sync_io"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAsync([A-Z]\w+)", r"\1"),
    (r"The asyncio client\. .*", "The blocking client, generated from ``superserve._async``."),
]


def generated(source: Path) -> str:
    """The blocking form of a module."""
    text = source.read_text()
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    if source.name == "__init__.py":
        text = '"""The blocking client, generated from ``superserve._async``."""\n'
    return HEADER.format(name=source.name) + text


def main() -> int:
    """Writes or checks all modules."""
    check = "--check" in sys.argv
    wanted = {source.name: generated(source) for source in sorted((PACKAGE / "_async").glob("*.py"))}
    there = {target.name: target.read_text() for target in (PACKAGE / "_sync").glob("*.py")}
    if check:
        stale = sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))
        if stale:
            print("run scripts/generate_sync.py; not up to date:", *stale, file=sys.stderr)
        return 1 if stale else 0
    for name in there.keys() - wanted.keys():
        (PACKAGE / "_sync" / name).unlink()
    for name, text in wanted.items():
        (PACKAGE / "_sync" / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
