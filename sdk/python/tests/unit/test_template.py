"""Templates and their builds."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

import superserve
from superserve import (
    BuildError,
    BuildLogEvent,
    ConflictError,
    CopyStep,
    CopyStepValue,
    EnvStep,
    EnvStepValue,
    NotFoundError,
    RunStep,
    SandboxConnectionError,
    ServerError,
    SuperserveError,
    TemplateBuildInfo,
    TemplateBuildStatus,
    UserStep,
    UserStepValue,
    ValidationError,
    WorkdirStep,
)
from support import KEY, Driver, HostileServer, Reply, Request, answer, drop, error, events

ID = "5f0e2a44-0000-4000-8000-000000000001"
BUILD = "5f0e2a44-0000-4000-8000-000000000002"
SECOND = "5f0e2a44-0000-4000-8000-000000000003"
POST = "POST /templates"
GET = f"GET /templates/{ID}"
GET_BUILD = f"GET /templates/{ID}/builds/{BUILD}"
LOG = GET_BUILD + "/logs"
CREATED = "2026-01-02T15:04:05.123Z"
AT = datetime(2026, 1, 2, 15, 4, 5, 123000, timezone.utc)


def row(**fields: Any) -> dict[str, Any]:
    """A template of the wire."""
    shape = {"vcpu": 1, "memory_mib": 1024, "disk_mib": 4096}
    head = {"id": ID, "team_id": ID, "name": "a/b", "status": "pending", "created_at": CREATED}
    return {**head, **shape, "latest_build_id": BUILD, **fields}


def build(**fields: Any) -> Reply:
    """A build of the wire."""
    return answer(
        200,
        {"id": BUILD, "template_id": ID, "status": "building", "build_spec_hash": "h", "created_at": CREATED, **fields},
    )


def line(text: str, **fields: Any) -> dict[str, Any]:
    """A line of a log."""
    return {"timestamp": CREATED, "stream": "stdout", "text": text, **fields}


def last(status: str) -> dict[str, Any]:
    """The last line."""
    return line("over", stream="system", finished=True, status=status)


READY = answer(200, row(status="ready", built_at=CREATED, size_bytes=5))


@pytest.fixture(autouse=True)
def environment(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_API_KEY", KEY)
    monkeypatch.setenv("SUPERSERVE_BASE_URL", server.url)
    monkeypatch.setattr("superserve._http.random.random", lambda: -0.45)
    for kind in ("_async", "_sync"):
        monkeypatch.setattr(f"superserve.{kind}.builds.RECONNECT_DELAY", 0.001)
    server.on(POST, answer(202, {**row(), "build_id": BUILD}))


@pytest.fixture
def template(driver: Driver, server: HostileServer) -> Iterator[Any]:
    """One that was just made."""
    yield driver.do(driver.Template.create("a/b", from_="alpine"))
    server.wait_for_no_connections()


def texts(driver: Driver, template: Any, **arguments: Any) -> list[str]:
    """The log."""
    got: list[BuildLogEvent] = []
    driver.do(template.stream_build_logs(got.append, **arguments))
    return [event.text for event in got]


def test_create_sends_every_option(driver: Driver, server: HostileServer) -> None:
    steps = [
        RunStep("true"),
        EnvStep(EnvStepValue("K", "v", expand=True)),
        WorkdirStep("/w"),
        UserStep(UserStepValue("app", sudo=True)),
        CopyStep(CopyStepValue("sha256:c", ["."], "/srv/", "app")),
        {"run": "a mapping"},
    ]
    template = driver.do(
        driver.Template.create(
            name="a/b",
            from_="alpine",
            steps=steps,
            start_cmd="serve",
            ready_cmd="check",
            vcpu=2,
            memory_mib=512,
            disk_mib=2048,
            idempotency_key="once",
        )
    )
    request = server.requests[-1]
    assert request.json() == {
        "name": "a/b",
        "vcpu": 2,
        "memory_mib": 512,
        "disk_mib": 2048,
        "build_spec": {
            "from": "alpine",
            "steps": [
                {"run": "true"},
                {"env": {"key": "K", "value": "v", "expand": True}},
                {"workdir": "/w"},
                {"user": {"name": "app", "sudo": True}},
                {"copy": {"context": "sha256:c", "src": ["."], "dst": "/srv/", "chown": "app"}},
                {"run": "a mapping"},
            ],
            "start_cmd": "serve",
            "ready_cmd": "check",
        },
    }
    assert request.headers["idempotency-key"] == "once"
    assert (template.id, template.name, template.status, template.latest_build_id) == (ID, "a/b", "pending", BUILD)
    assert (template.team_id, template.vcpu, template.memory_mib, template.disk_mib) == (ID, 1, 1024, 4096)
    assert (template.created_at, template.built_at, template.size_bytes, template.error_message) == (AT, None, None, None)
    with pytest.raises(AttributeError):
        template.status = "ready"


def test_create_from_a_template(driver: Driver, server: HostileServer, template: Any) -> None:
    for given in ("superserve/base", template, template.info):
        driver.do(driver.Template.create("n", from_template=given))
        wanted = given if isinstance(given, str) else ID
        assert server.requests[-1].json() == {"name": "n", "build_spec": {"from_template": wanted}}


@pytest.mark.parametrize(
    ("status", "cls"), [(400, ValidationError), (409, ConflictError), (429, superserve.RateLimitError), (503, ServerError)]
)
def test_create_is_not_tried_again(driver: Driver, server: HostileServer, status: int, cls: Any) -> None:
    server.on(POST, error(status, "some_code"))
    with pytest.raises(cls) as caught:
        driver.do(driver.Template.create("n", from_="alpine"))
    assert (caught.value.status_code, caught.value.code) == (status, "some_code")
    assert len(server.requests) == 1


def test_create_checks_the_answer_and_the_steps(driver: Driver, server: HostileServer) -> None:
    steps: Any
    for steps in (["run"], "run", [None], [RunStep]):
        with pytest.raises(ValidationError):
            driver.do(driver.Template.create("n", from_="alpine", steps=steps))
    assert not server.requests
    server.on(POST, answer(202, row()))
    with pytest.raises(ServerError, match="build_id"):
        driver.do(driver.Template.create("n", from_="alpine"))


def test_delete_swallows_not_found_only(driver: Driver, server: HostileServer, template: Any) -> None:
    driver.do(template.delete())
    driver.do(template.cancel_build(BUILD))
    driver.do(driver.Template.delete_by_id("a/b"))
    assert [(r.method, r.path) for r in server.requests[1:]] == [
        ("DELETE", f"/templates/{ID}"),
        ("DELETE", f"/templates/{ID}/builds/{BUILD}"),
        ("DELETE", "/templates/a%2Fb"),
    ]
    server.on(f"DELETE /templates/{ID}", error(409, "conflict"))
    with pytest.raises(ConflictError):
        driver.do(template.delete())
    with pytest.raises(ValidationError):
        driver.do(driver.Template.delete_by_id(".."))


def test_builds(driver: Driver, server: HostileServer, template: Any) -> None:
    over = {"status": "failed", "error_message": "step_failed: no", "source_digest": "sha256:d"}
    server.on(f"POST /templates/{ID}/builds", build())
    server.on(f"GET /templates/{ID}/builds", answer(200, []))
    server.on(GET_BUILD, build(**over, started_at=CREATED, finalized_at=CREATED))
    assert driver.do(template.rebuild()) == TemplateBuildInfo(BUILD, ID, TemplateBuildStatus.BUILDING, "h", AT)
    assert server.requests[-1].body == b""
    driver.do(template.rebuild(memory_mib=512, steps=[RunStep("x")], from_template=template, idempotency_key="k"))
    assert server.requests[-1].json() == {
        "memory_mib": 512,
        "build_spec": {"from_template": ID, "steps": [{"run": "x"}]},
    }
    assert server.requests[-1].headers["idempotency-key"] == "k"
    assert driver.do(template.list_builds(limit=2)) == []
    assert driver.do(template.list_builds()) == []
    assert [r.query for r in server.seen(f"GET /templates/{ID}/builds")] == ["limit=2", ""]
    found = driver.do(template.get_build(BUILD))
    assert found == TemplateBuildInfo(
        BUILD, ID, TemplateBuildStatus.FAILED, "h", AT, "step_failed: no", "sha256:d", AT, AT
    )
    with pytest.raises(ValidationError):
        driver.do(template.get_build(""))


def test_log(driver: Driver, server: HostileServer, template: Any) -> None:
    server.on(LOG, events(line("one"), b": keepalive\n\n", last("failed"), line("never")))
    got: list[BuildLogEvent] = []
    driver.do(template.stream_build_logs(on_event=got.append))
    assert got == [
        BuildLogEvent(AT, superserve.BuildLogStream.STDOUT, "one"),
        BuildLogEvent(AT, superserve.BuildLogStream.SYSTEM, "over", True, TemplateBuildStatus.FAILED),
    ]
    assert server.requests[-1].headers["accept"] == "text/event-stream"


def test_log_callbacks_may_be_coroutine_functions(server: HostileServer) -> None:
    driver = Driver("async")
    server.on(LOG, events(line("one"), last("ready")))
    got: list[str] = []

    async def later(event: BuildLogEvent) -> None:
        await asyncio.sleep(0)
        got.append(event.text)

    driver.do(driver.do(driver.Template.create("n", from_="alpine")).stream_build_logs(later))
    assert got == ["one", "over"]
    driver.close()


def test_log_that_breaks_off_is_read_again(driver: Driver, server: HostileServer, template: Any) -> None:
    both = (line("one"), line("two"))
    server.on(
        LOG,
        events(line("one")),
        events(*both, end=b"5\r\ndata:"),
        error(503, "unavailable"),
        drop(),
        events(*both, last("ready")),
    )
    assert texts(driver, template) == ["one", "two", "over"]


def test_log_that_never_ends(driver: Driver, server: HostileServer, template: Any) -> None:
    server.on(LOG, events(line("one")))
    with pytest.raises(SandboxConnectionError):
        texts(driver, template)
    assert len(server.seen(LOG)) == 4


@pytest.mark.parametrize(
    ("reply", "cls"),
    [
        (answer(200, {}), ServerError),
        (events(b"data: x\n\n"), ServerError),
        (events({"text": "x"}), ServerError),
        (error(404, "not_found"), NotFoundError),
    ],
)
def test_log_that_is_none(driver: Driver, server: HostileServer, template: Any, reply: Reply, cls: Any) -> None:
    server.on(LOG, reply)
    with pytest.raises(cls):
        texts(driver, template)
    assert len(server.seen(LOG)) == 1


def test_log_of_the_latest_build(driver: Driver, server: HostileServer) -> None:
    server.on("GET /templates/a%2Fb", answer(200, row(latest_build_id="old")))
    server.on(GET, answer(200, row()), answer(200, row(latest_build_id=None)))
    server.on(LOG, events(last("ready")))
    server.on(f"GET /templates/{ID}/builds/other/logs", events(last("ready")))
    template = driver.do(driver.Template.connect("a/b"))
    assert texts(driver, template) == ["over"]
    with pytest.raises(SuperserveError) as caught:
        texts(driver, template)
    assert caught.value.code == "no_builds"
    assert texts(driver, template, build_id="other") == ["over"]


def test_an_error_of_the_callback_ends_it(driver: Driver, server: HostileServer, template: Any) -> None:
    server.on(LOG, events(line("one"), last("ready")))
    server.on(GET_BUILD, build())

    def fails(_: BuildLogEvent) -> None:
        raise SandboxConnectionError("mine")

    with pytest.raises(SandboxConnectionError, match="mine"):
        driver.do(template.stream_build_logs(fails))
    with pytest.raises(SandboxConnectionError, match="mine"):
        driver.do(template.wait_until_ready(on_log=fails))
    assert len(server.seen(LOG)) == 2


def test_wait(driver: Driver, server: HostileServer, template: Any) -> None:
    server.on(LOG, events(line("one"), last("ready")))
    server.on(GET_BUILD, build(), build(status="ready"))
    server.on(GET, READY)
    got: list[str] = []
    info = driver.do(template.wait_until_ready(on_log=lambda event: got.append(event.text)))
    assert (info.status, info.size_bytes, info.built_at, template.status) == ("ready", 5, AT, "pending")
    assert got == ["one", "over"]


def test_wait_for_what_is_over(driver: Driver, server: HostileServer, template: Any) -> None:
    server.on(LOG, events(last("ready")))
    server.on(GET_BUILD, build(status="ready"))
    server.on(GET, READY)
    driver.do(template.wait_until_ready())
    assert not server.seen(LOG)
    driver.do(template.wait_until_ready(on_log=print))
    assert server.seen(LOG)


@pytest.mark.parametrize(
    "log", [error(404, "x"), error(500, "x"), events(b"data: x\n\n"), events(last("ready")), events(line("cut"))]
)
def test_wait_asks_when_the_log_does_not_tell(driver: Driver, server: HostileServer, template: Any, log: Reply) -> None:
    server.on(LOG, log)
    going = build(status="snapshotting")
    server.on(GET_BUILD, going, going, going, build(status="ready"))
    server.on(GET, READY)
    assert driver.do(template.wait_until_ready(poll_interval_s=0.001)).status == "ready"
    assert len(server.seen(GET_BUILD)) == 4


@pytest.mark.parametrize(
    ("message", "code", "detail"),
    [
        ("step_failed: it exited with 3: a", "step_failed", "it exited with 3: a"),
        ("image_pull_failed: one\ntwo", "image_pull_failed", "one\ntwo"),
        ("something else", "build_failed", "something else"),
        ("Failed: x", "build_failed", "Failed: x"),
        ("step_failed:", "build_failed", "step_failed:"),
        (None, "build_failed", "the build failed"),
    ],
)
def test_wait_for_a_failure(
    driver: Driver, server: HostileServer, template: Any, message: Any, code: str, detail: str
) -> None:
    server.on(LOG, events(last("failed")))
    server.on(GET_BUILD, build(), build(status="failed", error_message=message))
    with pytest.raises(BuildError) as caught:
        driver.do(template.wait_until_ready())
    found = caught.value
    assert isinstance(found, superserve.SandboxError)
    assert (found.code, str(found), found.message) == (code, detail, detail)
    assert (found.build_id, found.template_id, found.status_code) == (BUILD, ID, None)


def test_wait_for_a_cancelled_or_deleted_one(driver: Driver, server: HostileServer, template: Any) -> None:
    server.on(GET_BUILD, build(status="cancelled"))
    with pytest.raises(ConflictError) as caught:
        driver.do(template.wait_until_ready())
    assert (caught.value.code, caught.value.status_code) == ("cancelled", 409)
    server.on(GET_BUILD, error(404, "not_found"))
    with pytest.raises(NotFoundError):
        driver.do(template.wait_until_ready())


def test_wait_for_the_build_that_was_begun_last(driver: Driver, server: HostileServer, template: Any) -> None:
    server.on(f"POST /templates/{ID}/builds", build(id=SECOND))
    server.on(f"GET /templates/{ID}/builds/{SECOND}", build(id=SECOND, status="ready"))
    server.on(GET_BUILD, build(status="failed"))
    server.on(GET, READY)
    driver.do(template.rebuild())
    assert driver.do(template.wait_until_ready()).status == "ready"
    with pytest.raises(BuildError):
        driver.do(template.wait_until_ready(build_id=BUILD))


def test_wait_for_a_system_template(driver: Driver, server: HostileServer) -> None:
    def system(status: str) -> Reply:
        message = "boot_failed: x" if status == "failed" else None
        return answer(200, row(latest_build_id=None, status=status, error_message=message))

    server.on("GET /templates/superserve%2Fnew", system("building"))
    server.on(GET, system("building"), system("building"), system("ready"), system("failed"))
    template = driver.do(driver.Template.get("superserve/new"))
    assert driver.do(template.wait_until_ready(poll_interval_s=0.001)).status == "ready"
    with pytest.raises(BuildError) as caught:
        driver.do(template.wait_until_ready())
    assert caught.value.code == "boot_failed"


def test_wait_refuses_an_interval_that_is_none(driver: Driver, template: Any) -> None:
    with pytest.raises(ValidationError):
        driver.do(template.wait_until_ready(poll_interval_s=0))


def test_a_cancelled_task_closes_the_connection(server: HostileServer) -> None:
    driver = Driver("async")
    told = threading.Event()

    def stay(connection: socket.socket, _: Request) -> None:
        data = b'data: {"timestamp":"%s","stream":"stdout","text":"one"}\n\n' % CREATED.encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"%x\r\n%s\r\n" % (len(data), data))
        assert connection.recv(1) == b""
        told.set()

    server.on(LOG, stay)
    server.on(GET_BUILD, build())
    template = driver.do(driver.Template.create("n", from_="alpine"))

    async def cancelled() -> None:
        began = asyncio.Event()
        task = asyncio.create_task(template.wait_until_ready(on_log=lambda _: began.set()))
        await began.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        driver.do(cancelled())
    assert told.wait(5)
    driver.close()
