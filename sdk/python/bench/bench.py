"""What the SDK adds to a bare HTTP client, on the server that SUPERSERVE_BASE_URL names.

Compares medians of commands.run("true") and the best of several transfers of 100 MiB, ours and the bare client's in
turn. Fails when a goal is missed: at most 3 ms more for a command, and 0.8 or more of the bare client's speed.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from superserve import AsyncSandbox, Sandbox

CALLS = 200
ROUNDS = 20
SIZE = 100 << 20
MAX_OVERHEAD_MS = 3.0
MIN_RATIO = 0.8


def target(sandbox: Any) -> tuple[str, dict[str, str]]:
    """Address and headers for the bare client."""
    key = {"X-API-Key": os.environ["SUPERSERVE_API_KEY"]}
    raw = httpx.get(f"{os.environ['SUPERSERVE_BASE_URL']}/sandboxes/{sandbox.id}", headers=key).json()
    return raw["data_plane_url"], {"X-Superserve-Sandbox-Id": sandbox.id, "X-Access-Token": raw["access_token"]}


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(
    first: Callable[[], Any], second: Callable[[], Any], times: int, summary: Callable[[list[float]], float]
) -> tuple[float, float]:
    """The times of two calls that alternate, each as often first, so that both see the same machine."""
    found: dict[int, list[float]] = {0: [], 1: []}
    first(), second()
    for number in range(times):
        for which in (0, 1) if number % 2 else (1, 0):
            found[which].append(timed((first, second)[which]))
    return summary(found[0]), summary(found[1])


def measure(name: str, run: Any, upload: Any, download: Any, bare: tuple[Any, Any, Any]) -> bool:
    """Measures one client; whether it reaches the goals."""
    ours, theirs = in_turn(run, bare[0], CALLS, statistics.median)
    overhead = (ours - theirs) * 1000
    print(f'{name}: run("true") {ours * 1000:.2f} ms, bare {theirs * 1000:.2f} ms, overhead {overhead:.2f} ms')
    good = overhead <= MAX_OVERHEAD_MS
    for what, mine, other in (("upload", upload, bare[1]), ("download", download, bare[2])):
        ours, theirs = in_turn(mine, other, ROUNDS, min)
        speeds = f"{SIZE / ours / 2**20:.0f} MiB/s, bare {SIZE / theirs / 2**20:.0f} MiB/s"
        print(f"{name}: {what} of 100 MiB {speeds}, ratio {theirs / ours:.2f}")
        good = good and theirs / ours >= MIN_RATIO
    return good


def measure_sync(data: bytes) -> bool:
    """The blocking client."""
    with Sandbox.create("bench-sync") as sandbox, httpx.Client(timeout=60) as client:
        url, headers = target(sandbox)
        query = {"path": "/tmp/bare"}
        bare = (
            lambda: client.post(url + "/exec", json={"command": "true"}, headers=headers).json(),
            lambda: client.post(url + "/files", params=query, content=data, headers=headers).raise_for_status(),
            lambda: client.get(url + "/files", params=query, headers=headers).content,
        )
        return measure(
            "sync",
            lambda: sandbox.commands.run("true"),
            lambda: sandbox.files.write("/tmp/ours", data),
            lambda: sandbox.files.read("/tmp/ours"),
            bare,
        )


def measure_async(data: bytes) -> bool:
    """The asyncio client."""
    loop = asyncio.new_event_loop()

    def waiting(call: Callable[[], Awaitable[Any]]) -> Callable[[], Any]:
        async def body() -> Any:
            return await call()

        return lambda: loop.run_until_complete(body())

    sandbox = loop.run_until_complete(AsyncSandbox.create("bench-async"))
    client = httpx.AsyncClient(timeout=60)
    url, headers = target(sandbox)
    query = {"path": "/tmp/bare"}
    try:
        return measure(
            "async",
            waiting(lambda: sandbox.commands.run("true")),
            waiting(lambda: sandbox.files.write("/tmp/ours", data)),
            waiting(lambda: sandbox.files.read("/tmp/ours")),
            (
                waiting(lambda: client.post(url + "/exec", json={"command": "true"}, headers=headers)),
                waiting(lambda: client.post(url + "/files", params=query, content=data, headers=headers)),
                waiting(lambda: client.get(url + "/files", params=query, headers=headers)),
            ),
        )
    finally:
        loop.run_until_complete(client.aclose())
        loop.run_until_complete(sandbox.kill())
        loop.close()


if __name__ == "__main__":
    DATA = os.urandom(SIZE)
    results = [measure_sync(DATA), measure_async(DATA)]
    sys.exit(0 if all(results) else 1)
