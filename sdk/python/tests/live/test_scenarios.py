"""The common scenarios, with both clients."""

from __future__ import annotations

import os
import random
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import superserve
from scenario_ops import Operations
from scenario_values import Loader, holds, plain, resolve
from support import Driver

DIRECTORY = Path(__file__).resolve().parents[4] / "test" / "scenarios"
ENVIRONMENT = dict(os.environ)
STEP_KEYS = {"op", "on", "args", "as", "env", "expect", "eventually"}
CLASSES = {"TimeoutError": superserve.SandboxTimeoutError}


def load() -> list[dict[str, Any]]:
    """All scenarios that are for Python, in the order of the files' names."""
    files = sorted(path for path in DIRECTORY.glob("*.yaml") if path.name != "seeds.yaml")
    found = [scenario for path in files for scenario in yaml.load(path.read_text(), Loader)]
    assert found, f"no scenarios in {DIRECTORY.name}"
    return [scenario for scenario in found if "python" in scenario.get("only", ["python"])]


@contextmanager
def environment(changes: dict[str, Any]) -> Iterator[None]:
    """Environment variables during one step."""
    before = {name: os.environ.get(name) for name in changes}
    set_environment(changes)
    try:
        yield
    finally:
        set_environment(before)


def set_environment(values: dict[str, Any]) -> None:
    """Sets variables; None removes one."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)


class Runner:
    """One scenario under way."""

    def __init__(self, driver: Driver) -> None:
        self.operations = Operations(driver)
        letters = string.ascii_lowercase + string.digits
        self.names: dict[str, Any] = {"env": ENVIRONMENT, "run": "".join(random.choices(letters, k=8))}

    def step(self, step: dict[str, Any]) -> None:
        """Does a step until its expectation holds or its time is over."""
        assert step.keys() <= STEP_KEYS, f"unknown keys {step.keys() - STEP_KEYS}"
        deadline = time.monotonic() + step.get("eventually", 0)
        while (problem := self.attempt(step)) is not None:
            if time.monotonic() > deadline:
                pytest.fail(f"{step}: {problem}", pytrace=False)
            time.sleep(0.1)

    def attempt(self, step: dict[str, Any]) -> Any:
        """Does a step once; what is wrong with its result, None when nothing is."""
        wanted = resolve(step.get("expect"), self.names)
        on = self.names[step["on"]] if "on" in step else None
        args = resolve(step.get("args") or {}, self.names)
        try:
            with environment(resolve(step.get("env") or {}, self.names)):
                result = self.operations.call(step["op"], on, args)
        except superserve.SuperserveError as error:
            if wanted and "error" in wanted:
                return self.compare_error(error, wanted)
            if "eventually" in step:
                return repr(error)
            raise
        if wanted and "error" in wanted:
            return f"no error but {plain(result)!r:.500}"
        if wanted is not None and not holds(result, wanted):
            return f"got {plain(result)!r:.2000}"
        if "as" in step:
            self.names[step["as"]] = result
        return None

    @staticmethod
    def compare_error(error: superserve.SuperserveError, wanted: dict[str, Any]) -> Any:
        """What differs from the error that was expected."""
        cls = CLASSES.get(wanted["error"]) or getattr(superserve, wanted["error"])
        good = isinstance(error, cls) and all(
            getattr(error, name) == wanted[name] for name in ("status_code", "code") if name in wanted
        )
        return None if good else f"{error!r} with {error.status_code} {error.code}"

    def clean_up(self) -> None:
        """Undoes everything, also when something fails."""
        problems = []
        for cleanup in reversed(self.operations.cleanups):
            try:
                cleanup()
            except superserve.SuperserveError as error:
                problems.append(error)
        assert not problems


@pytest.mark.parametrize("scenario", [pytest.param(s, id=s["id"]) for s in load()])
def test_scenario(driver: Driver, scenario: dict[str, Any]) -> None:
    runner = Runner(driver)
    try:
        for step in scenario["steps"]:
            runner.step(step)
    finally:
        runner.clean_up()
