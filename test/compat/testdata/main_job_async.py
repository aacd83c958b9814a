"""The main job with the published PyPI package, its asynchronous side with a live process."""

import asyncio
import os
import random

from superserve import AsyncSandbox, AsyncTemplate, NotFoundError, RunStep


def equal(got, want) -> None:
    assert got == want, f"got {got!r}, want {want!r}"


async def main() -> None:
    run = f"{random.getrandbits(48):x}"
    sandbox = await AsyncSandbox.create(name=f"compat {run}", metadata={"run": run}, env_vars={"GREETING": "hello"})
    try:
        result = await sandbox.commands.run("echo $GREETING; exit 2")
        equal((result.stdout, result.exit_code), ("hello\n", 2))
        heard: list = []
        result = await sandbox.commands.run("echo a; echo b", on_stdout=heard.append)
        equal("".join(heard), "a\nb\n")

        heard = []
        session = await sandbox.commands.spawn("cat; exit 4", on_stdout=heard.append)
        await session.stdin.write("through stdin\n")
        await session.stdin.close()
        result = await session.wait()
        equal(("".join(heard), result.exit_code), ("through stdin\n", 4))
        session = await sandbox.commands.spawn("sleep 600")
        await session.kill("SIGKILL")
        equal((await session.wait()).exit_code, 137)

        template = await AsyncTemplate.create(
            name=f"compat-{run}", from_=os.environ["TEMPLATE_IMAGE"], steps=[RunStep(run="echo kept > /kept")]
        )
        equal((await template.wait_until_ready(on_log=heard.append, poll_interval_s=0.2)).status, "ready")
        user = await AsyncSandbox.create(name=f"compat {run}", from_template=template)
        equal((await user.commands.run("cat /kept")).stdout, "kept\n")
        await user.kill()
        await template.delete()

        await sandbox.files.write("/home/user/note", "kept")
        await sandbox.pause()
        equal((await sandbox.get_info()).status, "paused")
        await sandbox.resume()
        equal(await sandbox.files.read_text("/home/user/note"), "kept")
        equal([s.id for s in await AsyncSandbox.list(metadata={"run": run})], [sandbox.id])
    finally:
        await sandbox.kill()
    await AsyncSandbox.kill_by_id(sandbox.id)
    try:
        await AsyncSandbox.connect(sandbox.id)
    except NotFoundError:
        print("the main job is done")


asyncio.run(main())
