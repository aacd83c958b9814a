"""Builds the package, installs it into a clean environment and runs the documented examples there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from readme import ROOT

# The examples of the SDK page, in Python.
SYNC = """
import os
from superserve import NetworkConfig, NotFoundError, Sandbox

sandbox = Sandbox.create(
    name="data-analyzer",
    timeout_seconds=3600,
    metadata={"env": "prod", "run": os.environ["RUN"]},
    env_vars={"OPENAI_API_KEY": "sk-..."},
    network=NetworkConfig(allow_out=["api.openai.com"], deny_out=["0.0.0.0/0"]),
)
assert sandbox.status == "active" and sandbox.name == "data-analyzer"
sandbox_again = Sandbox.connect(sandbox.id)
all_of_them = Sandbox.list()
prod = Sandbox.list(metadata={"env": "prod", "run": os.environ["RUN"]})
assert [info.id for info in prod] == [sandbox.id] and len(all_of_them) >= 1
info = sandbox.get_info()
assert info.status == "active" and info.network.deny_out == ["0.0.0.0/0"]
assert sandbox.commands.run("echo $OPENAI_API_KEY").stdout == "sk-...\\n"
sandbox.files.write("/home/user/x", "kept")
sandbox.pause()
assert sandbox.get_info().status == "paused"
sandbox.resume()
assert sandbox.files.read_text("/home/user/x") == "kept"
sandbox.update(metadata={"env": "staging"}, network=NetworkConfig(allow_out=["api.openai.com"]))
assert sandbox.get_info().metadata == {"env": "staging"} and sandbox.metadata["env"] == "prod"
sandbox.kill()
sandbox.kill()
Sandbox.kill_by_id(sandbox.id)
try:
    sandbox.get_info()
except NotFoundError:
    print("done")
"""


def to_async(code: str) -> str:
    """The same for asyncio: the names are the same, the calls are awaited."""
    import re

    body = code.replace("Sandbox", "AsyncSandbox").replace("AsyncAsync", "Async")
    body = re.sub(r"(?<![\w.])((?:AsyncSandbox|sandbox)\.(?:\w+\.)?\w+\()", r"await \1", body)
    body = re.sub(r"await ([^\n]*?\))\.(status|metadata|stdout)", r"(await \1).\2", body)
    lines = body.strip().splitlines()
    imports, rest = lines[:2], lines[2:]
    inner = "\n".join("    " + line for line in rest)
    return "import asyncio\n" + "\n".join(imports) + f"\nasync def main():\n{inner}\nasyncio.run(main())\n"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``python -m build`` makes."""
    out = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], out)
    return out


@pytest.fixture(scope="module")
def clean(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Python of an environment with nothing but the wheel and what it needs."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    run([sys.executable, "-m", "venv", str(venv)], dist)
    (wheel,) = dist.glob("*.whl")
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "-c", str(ROOT / "requirements-dev.txt"), str(wheel)], dist)
    yield venv / "bin" / "python"


def run(command: list[str], cwd: Path) -> str:
    """Runs a program without this checkout in sight; its output."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env["RUN"] = os.urandom(4).hex()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_in_the_package(dist: Path) -> None:
    (wheel,) = dist.glob("superserve-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert sources | {"superserve/py.typed"} == {name for name in names if ".dist-info/" not in name}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (sdist,) = dist.glob("superserve-*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops <= {"src", "README.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}


def test_it_needs_only_httpx_and_websockets(clean: Path) -> None:
    import json

    listed = json.loads(run([str(clean), "-m", "pip", "list", "--format=json"], clean.parent))
    names = {row["name"].lower() for row in listed} - {"pip", "setuptools"}
    assert names == {
        "superserve",
        "httpx",
        "websockets",
        "anyio",
        "certifi",
        "h11",
        "httpcore",
        "idna",
        "typing_extensions",
    } - ({"typing_extensions"} - names)


def test_types_are_found(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "from superserve import Sandbox\n"
        "def go(box: Sandbox) -> int:\n"
        "    return box.commands.run('true').exit_code\n"
        "reveal_type(Sandbox.create('x').files.read('/x'))\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-incremental",
        "--python-executable",
        str(clean),
        "user.py",
    ]
    assert 'Revealed type is "bytes"' in run(command, tmp_path)


@pytest.mark.parametrize("code", [SYNC, to_async(SYNC)], ids=["sync", "async"])
def test_the_documented_examples(clean: Path, tmp_path: Path, code: str) -> None:
    assert run([str(clean), "-W", "error", "-c", code], tmp_path) == "done\n"
