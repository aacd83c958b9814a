"""The operations of the common scenarios, done with this SDK."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from typing import Any, Optional

import httpx

from scenario_values import plain
from superserve import NetworkConfig, NotFoundError
from support import Driver

Args = dict[str, Any]


def renamed(args: Args) -> Args:
    """Arguments as Python can spell them."""
    return {"from_" if name == "from" else name: value for name, value in args.items()}


class Operations:
    """One method for each operation; ``on`` is the bound object or None."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.do = driver.do
        #: What has to be done at the end, last first.
        self.cleanups: list[Callable[[], Any]] = []

    def call(self, op: str, on: Any, args: Args) -> Any:
        """Does one operation."""
        method = getattr(self, "op_" + op, None)
        assert method is not None, f"unknown operation {op}"
        if isinstance(args.get("network"), dict):
            args["network"] = NetworkConfig(**args["network"])
        return method(on, args)

    def _made(self, sandbox: Any) -> Any:
        self.cleanups.append(lambda: self.do(sandbox.kill()))
        return sandbox

    def op_create(self, _: Any, args: Args) -> Any:
        return self._made(self.do(self.driver.Sandbox.create(**args)))

    def op_connect(self, _: Any, args: Args) -> Any:
        return self._made(self.do(self.driver.Sandbox.connect(**args)))

    def op_list(self, _: Any, args: Args) -> Any:
        return plain(self.do(self.driver.Sandbox.list(**args)))

    def op_kill_by_id(self, _: Any, args: Args) -> Any:
        return self.do(self.driver.Sandbox.kill_by_id(**args))

    def op_update_by_id(self, _: Any, args: Args) -> Any:
        return self.do(self.driver.Sandbox.update_by_id(**args))

    def op_get_info(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.get_info(**args)))

    def op_pause(self, on: Any, args: Args) -> Any:
        return self.do(on.pause(**args))

    def op_resume(self, on: Any, args: Args) -> Any:
        return self.do(on.resume(**args))

    def op_kill(self, on: Any, args: Args) -> Any:
        return self.do(on.kill(**args))

    def op_update(self, on: Any, args: Args) -> Any:
        return self.do(on.update(**args))

    def op_property(self, on: Any, args: Args) -> Any:
        return plain(getattr(on, args["name"]))

    def op_get_network_log(self, on: Any, args: Args) -> Any:
        page = self.do(on.get_network_log(**args))
        return {"data": plain(page.events), "next_cursor": page.next_cursor, "has_more": page.has_more}

    def op_template_list(self, _: Any, args: Args) -> Any:
        return plain(self.do(self.driver.Template.list(**args)))

    def op_template_get(self, _: Any, args: Args) -> Any:
        return self.do(self.driver.Template.connect(**args))

    def op_template_create(self, _: Any, args: Args) -> Any:
        template = self.do(self.driver.Template.create(**renamed(args)))
        self.cleanups.append(lambda: self._drop(template))
        return template

    def _drop(self, template: Any) -> None:
        """Deletes a template whose latest build may still run."""
        try:
            for build in self.do(template.list_builds(limit=1)):
                self.do(template.cancel_build(build.id))
        except NotFoundError:
            return
        self.do(template.delete())

    def op_template_delete_by_id(self, _: Any, args: Args) -> Any:
        return self.do(self.driver.Template.delete_by_id(**args))

    def op_template_upload(self, _: Any, args: Args) -> Any:
        image = args.pop("kind") == "image"
        source = args.pop("tar")
        if isinstance(source, str):
            source = source.encode()  # a string would be the path of a directory
        send = self.driver.Template.upload_image if image else self.driver.Template.upload_context
        found = plain(self.do(send(source, **args)))
        return {name.rstrip("_"): value for name, value in found.items()}

    def op_template_info(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.get_info(**args)))

    def op_template_delete(self, on: Any, args: Args) -> Any:
        return self.do(on.delete(**args))

    def op_template_rebuild(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.rebuild(**renamed(args))))

    def op_template_builds(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.list_builds(**args)))

    def op_template_build(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.get_build(**args)))

    def op_template_cancel(self, on: Any, args: Args) -> Any:
        return self.do(on.cancel_build(**args))

    def op_template_logs(self, on: Any, args: Args) -> Any:
        log: list[Any] = []
        self.do(on.stream_build_logs(log.append, **args))
        return plain(log)

    def op_template_wait(self, on: Any, args: Args) -> Any:
        if not args.pop("with_log", False):
            return plain(self.do(on.wait_until_ready(**args)))
        log: list[Any] = []
        info = plain(self.do(on.wait_until_ready(on_log=log.append, **args)))
        return {**info, "log": plain(log)}

    def op_run(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.commands.run(**args)))

    def op_run_stream(self, on: Any, args: Args) -> Any:
        first: Optional[float] = None
        got: dict[str, list[str]] = {"stdout": [], "stderr": []}

        def take(name: str, text: str) -> None:
            nonlocal first
            first = time.monotonic() if first is None else first
            got[name].append(text)

        result = self.do(
            on.commands.run(**args, on_stdout=lambda t: take("stdout", t), on_stderr=lambda t: take("stderr", t))
        )
        lead = None if first is None else time.monotonic() - first
        joined = {name: "".join(pieces) for name, pieces in got.items()}
        return {**joined, "exit_code": result.exit_code, "lead_seconds": lead}

    def _opened(self, process: Any) -> Any:
        self.cleanups.append(lambda: self.do(process.detach()))
        return process

    def op_spawn(self, on: Any, args: Args) -> Any:
        return self._opened(self.do(on.commands.spawn(**args)))

    def op_attach(self, on: Any, args: Args) -> Any:
        return self._opened(self.do(on.commands.attach(**args)))

    def op_list_sessions(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.commands.list(**args)))

    def op_kill_session(self, on: Any, args: Args) -> Any:
        return self.do(on.commands.kill(**args))

    def op_write_stdin(self, on: Any, args: Args) -> Any:
        return self.do(on.write_stdin(**args))

    def op_close_stdin(self, on: Any, args: Args) -> Any:
        return self.do(on.close_stdin(**args))

    def op_kill_process(self, on: Any, args: Args) -> Any:
        return self.do(on.kill(**args))

    def op_read_output(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.read_output(**args)))

    def op_wait(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.wait(**args)))

    def op_detach(self, on: Any, args: Args) -> Any:
        return self.do(on.detach(**args))

    def op_files_write(self, on: Any, args: Args) -> Any:
        return self.do(on.files.write(**args))

    def op_files_read(self, on: Any, args: Args) -> Any:
        return self.do(on.files.read(**args))

    def op_files_read_text(self, on: Any, args: Args) -> Any:
        return self.do(on.files.read_text(**args))

    def op_files_download_dir(self, on: Any, args: Args) -> Any:
        return self.do(on.files.download_dir(**args))

    def op_files_list(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.files.list(**args)))

    def op_files_stat(self, on: Any, args: Args) -> Any:
        return plain(self.do(on.files.stat(**args)))

    def op_files_mkdir(self, on: Any, args: Args) -> Any:
        return self.do(on.files.mkdir(**args))

    def op_files_move(self, on: Any, args: Args) -> Any:
        return self.do(on.files.move(args["from"], args["to"]))

    def op_files_remove(self, on: Any, args: Args) -> Any:
        return self.do(on.files.remove(**args))

    def op_files_watch(self, on: Any, args: Args) -> Any:
        watch = self.driver.enter(on.files.watch(**args))
        self.cleanups.append(lambda: self.do(watch.close()))
        return watch

    def op_watch_next(self, on: Any, _: Args) -> Any:
        if self.driver.kind == "async":
            return plain(self.do(asyncio.wait_for(on.__anext__(), 10)))
        return plain(next(on))

    def op_watch_close(self, on: Any, _: Args) -> Any:
        return self.do(on.close())

    def op_http(self, _: Any, args: Args) -> Any:
        headers = dict(args.get("headers") or {})
        if args.get("key", True):
            headers["X-API-Key"] = os.environ["SUPERSERVE_API_KEY"]
        content = None
        if "json" in args:
            content = json.dumps(plain(args["json"]))
            headers.setdefault("Content-Type", "application/json")
        url = (args.get("base_url") or os.environ["SUPERSERVE_BASE_URL"]) + args["path"]
        answer = httpx.request(args.get("method", "GET"), url, headers=headers, content=content, timeout=60)
        body: Any = answer.text or None
        if body and "json" in answer.headers.get("content-type", ""):
            body = answer.json()
        return {"status": answer.status_code, "headers": dict(answer.headers), "body": body}
