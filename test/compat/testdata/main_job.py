"""The main job with the published PyPI package, its synchronous side."""

import os
import random
from datetime import datetime

from superserve import (
    AuthenticationError,
    BuildError,
    ConflictError,
    EnvStep,
    EnvStepValue,
    NetworkConfig,
    NotFoundError,
    RunStep,
    Sandbox,
    Template,
    ValidationError,
    WorkdirStep,
)

NIL = "00000000-0000-4000-8000-000000000000"
run = f"{random.getrandbits(48):x}"


def step(name: str) -> None:
    print(name, flush=True)


def fails(kind, call, *args, **kwargs) -> None:
    try:
        call(*args, **kwargs)
    except kind:
        return
    raise AssertionError(f"{call} did not raise {kind}")


def equal(got, want) -> None:
    assert got == want, f"got {got!r}, want {want!r}"


step("create")
sandbox = Sandbox.create(
    name=f"compat {run}",
    from_template="superserve/base",
    timeout_seconds=3600,
    metadata={"run": run, "env": "prod"},
    env_vars={"GREETING": "hello there"},
    network=NetworkConfig(allow_out=["api.openai.com"], deny_out=["0.0.0.0/0"]),
)
try:
    equal(sandbox.name, f"compat {run}")
    equal(sandbox.status, "active")
    equal(sandbox.metadata, {"run": run, "env": "prod"})

    step("commands.run")
    result = sandbox.commands.run('echo "$GREETING"; echo wrong >&2; exit 3')
    equal((result.stdout, result.stderr, result.exit_code, result.truncated), ("hello there\n", "wrong\n", 3, False))
    result = sandbox.commands.run("pwd; echo $X", cwd="/tmp", env={"X": "y"}, timeout_seconds=20)
    equal(result.stdout, "/tmp\ny\n")
    equal(sandbox.commands.run("sleep 60", timeout_seconds=1).exit_code, 124)

    step("commands.run with callbacks")
    heard = []
    result = sandbox.commands.run("echo a; sleep 0.2; echo b", on_stdout=heard.append)
    equal(("".join(heard), result.exit_code), ("a\nb\n", 0))

    step("files")
    sandbox.files.write("/home/user/a/text.txt", "grüße\n")
    equal(sandbox.files.read_text("/home/user/a/text.txt"), "grüße\n")
    sandbox.files.write("/home/user/a/raw", b"\x00\x01\xff\x80")
    equal(sandbox.files.read("/home/user/a/raw"), b"\x00\x01\xff\x80")
    equal(sandbox.files.download_dir("/home/user/a")[:2], b"PK")
    fails(NotFoundError, sandbox.files.read, "/home/user/none")
    fails(ValidationError, sandbox.files.read, "relative")

    step("get_info, list, update")
    info = sandbox.get_info()
    equal(info.status, "active")
    assert isinstance(info.created_at, datetime) and info.vcpu_count >= 1 and info.memory_mib >= 256
    equal(info.timeout_seconds, 3600)
    equal((info.network.allow_out, info.network.deny_out), (["api.openai.com"], ["0.0.0.0/0"]))
    equal([s.id for s in Sandbox.list(metadata={"run": run, "env": "prod"})], [sandbox.id])
    equal(Sandbox.list(metadata={"run": run, "env": "test"}), [])
    sandbox.update(metadata={"run": run, "env": "staging"}, network=NetworkConfig(allow_out=["192.0.2.0/24"]))
    Sandbox.update_by_id(sandbox.id, timeout_seconds=None, auto_delete_seconds=600)
    info = sandbox.get_info()
    equal(info.metadata, {"run": run, "env": "staging"})
    equal((info.timeout_seconds, info.auto_delete_seconds), (None, 600))
    equal(info.network.allow_out, ["192.0.2.0/24"])

    step("pause and resume")
    sandbox.pause(wait=True)
    equal(sandbox.get_info().status, "paused")
    fails(ConflictError, sandbox.pause)
    fails(ConflictError, sandbox.update, network=NetworkConfig(deny_out=["0.0.0.0/0"]))
    sandbox.resume()
    equal(sandbox.files.read_text("/home/user/a/text.txt"), "grüße\n")
    equal(sandbox.commands.run("echo $GREETING").stdout, "hello there\n")

    step("connect, also to a paused one, and a token that another object rotated")
    again = Sandbox.connect(sandbox.id)
    again.pause()
    again.resume()
    equal(sandbox.commands.run("echo back").stdout, "back\n")
    sandbox.pause()
    equal(Sandbox.connect(sandbox.id).commands.run("echo awake").stdout, "awake\n")

    step("templates")
    base = Template.connect("superserve/base")
    equal(base.status, "ready")
    assert base.id in [t.id for t in Template.list(name_prefix="superserve/")]

    step("a template of one's own")
    image = os.environ["TEMPLATE_IMAGE"]
    built = Template.create(
        name=f"compat-{run}",
        from_=image,
        memory_mib=512,
        steps=[
            RunStep(run=f"echo said by {run}; echo kept > /kept"),
            EnvStep(env=EnvStepValue(key="GREETING", value="from the template")),
            WorkdirStep(workdir="/srv"),
        ],
        start_cmd="while sleep 0.1; do date > /srv/now; done",
        ready_cmd="test -s /srv/now",
    )
    lines: list = []
    ready = built.wait_until_ready(on_log=lines.append, poll_interval_s=0.2)
    equal((ready.status, ready.memory_mib), ("ready", 512))
    replayed: list = []
    built.stream_build_logs(on_event=replayed.append)
    assert any(f"said by {run}" in event.text for event in replayed), replayed
    equal(replayed[-1].status, "ready")
    equal(built.get_build(built.latest_build_id).status, "ready")
    user = Sandbox.create(name=f"compat {run}", from_template=built)
    equal(user.commands.run("cat /kept; echo $GREETING; pwd").stdout, "kept\nfrom the template\n/srv\n")
    fails(ConflictError, built.delete)
    user.kill()
    second = built.rebuild()
    built.cancel_build(second.id)
    equal(len(built.list_builds(limit=10)), 2)
    built.delete()
    Template.delete_by_id(f"compat-{run}")
    failing = Template.create(name=f"compat-{run}", from_=image, steps=[RunStep(run="exit 3")])
    try:
        failing.wait_until_ready(poll_interval_s=0.2)
        raise AssertionError("a failed build is no error")
    except BuildError as error:
        equal(error.code, "step_failed")
    failing.delete()

    step("errors")
    fails(NotFoundError, Sandbox.connect, NIL)
    fails(ValidationError, Sandbox.create, name="")
    fails(AuthenticationError, Sandbox.list, api_key="ss_live_wrong")
finally:
    step("kill")
    sandbox.kill()
sandbox.kill()
Sandbox.kill_by_id(sandbox.id)
fails(NotFoundError, Sandbox.connect, sandbox.id)
print("the main job is done")
