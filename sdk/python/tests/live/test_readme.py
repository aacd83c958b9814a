"""Every example of the README, run as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from readme import ROOT, examples
from superserve import Sandbox, Template

#: A line that an example has to print, by its heading.
PRINTS = {
    "First steps": ["some text", "['0\\n', '1\\n', '2\\n']"],
    "Creating": ["{'env': 'staging'}"],
    "Pause and resume": ["paused"],
    "Commands": ["stdout got one", "done", "hi from /tmp"],
    "Files": ["False 7", "FileEvent(event='create', path='/tmp/b/new')"],
    "Templates": ["ready ['failed', 'ready']"],
    "Build contexts": ["copied"],
    "Errors": ["409 conflict", "gone"],
}


def test_all_examples_are_found() -> None:
    assert len(examples()) == 9
    assert {heading for heading, _ in examples()} == PRINTS.keys()


def there() -> set[str]:
    """What the server has."""
    return {info.id for info in Sandbox.list()} | {info.id for info in Template.list()}


@pytest.mark.parametrize(("heading", "code"), examples())
def test_example(heading: str, code: str, tmp_path: Path) -> None:
    before = there()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert any(line in done.stdout for line in PRINTS[heading]), done.stdout
    assert there() <= before
