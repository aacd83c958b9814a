"""The examples of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def examples() -> list[tuple[str, str]]:
    """Heading and code of each Python example in the README."""
    found = []
    heading = "top"
    for part in re.finditer(r"^## ([^\n]+)$|^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S):
        if part[1]:
            heading = part[1]
        else:
            found.append((heading, part[2]))
    return found
