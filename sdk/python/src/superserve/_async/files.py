"""Files in a sandbox."""

from __future__ import annotations

import builtins
import os
import tempfile
from typing import Union

from .. import _checks
from .._async_io import UploadContent, in_thread
from .._context import copy_tree
from .._http import Call
from .._upload import check_content
from ..errors import NotFoundError, invalid_response
from ..types import FileInfo, WrittenFile, as_list, as_object, file_info, written_file
from .dataplane import AsyncDataPlane
from .streams import AsyncFileStream, AsyncWatch

#: Bytes that ``read``, ``read_text`` and ``download_dir`` return at most unless told otherwise: 1 GiB.
DEFAULT_MAX_BYTES = 1 << 30
#: Seconds between two pieces of an event stream; the server sends a comment every 15.
STREAM_IDLE_TIMEOUT = 60.0


class AsyncFiles:
    """Files of a sandbox, as ``sandbox.files``.

    Paths are absolute, without ``..`` segments, at most 4096 bytes; others raise ValidationError before a request.
    """

    def __init__(self, plane: AsyncDataPlane) -> None:
        self._plane = plane

    async def write(self, path: str, content: UploadContent) -> WrittenFile:
        """Writes a file; missing directories are made.

        ``content`` is text (written as UTF-8), bytes, a file object or an iterator of bytes. An upload that breaks off
        leaves the old file as it was.
        """
        return await self._upload(path, content, "application/octet-stream", [])

    async def read(self, path: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Reads a file. One larger than ``max_bytes`` raises OutputTooLargeError; ``read_stream`` has no limit."""
        return await self._download([("path", _checks.path(path))], max_bytes)

    async def read_text(self, path: str, *, encoding: str = "utf-8", max_bytes: int = DEFAULT_MAX_BYTES) -> str:
        """Reads a file as text. What is not valid in the encoding raises UnicodeDecodeError."""
        return (await self.read(path, max_bytes=max_bytes)).decode(encoding)

    def read_stream(self, path: str) -> AsyncFileStream:
        """A file in pieces, of any size.

        Use it with ``async with`` or read it to its end. A connection that breaks is an error.
        """
        return AsyncFileStream(self._plane, Call("GET", "/files", query=[("path", _checks.path(path))]))

    async def download_dir(self, path: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """A directory as a zip archive, its entries prefixed with the directory's base name, symlinks left out."""
        return await self._download([("path", _checks.path(path)), ("format", "zip")], max_bytes)

    async def upload_tar(self, path: str, content: UploadContent) -> WrittenFile:
        """Unpacks an uncompressed tar archive into the directory ``path``."""
        return await self._upload(path, content, "application/x-tar", [("format", "tar")])

    async def upload_dir(self, local_path: Union[str, os.PathLike[str]], path: str) -> WrittenFile:
        """Copies what is in a local directory into the directory ``path``."""
        _checks.path(path)
        with tempfile.TemporaryFile() as spool:
            await in_thread(copy_tree, os.fspath(local_path), spool)
            return await self.upload_tar(path, spool)

    async def list(self, path: str, *, depth: int = 1) -> builtins.list[FileInfo]:
        """The entries of a directory, ``depth`` levels deep, at most 10,000."""
        query = [("path", _checks.path(path)), ("depth", str(depth))]
        answer = await self._plane.request(Call("GET", "/files/list", query=query))
        return [file_info(entry) for entry in as_list(as_object(answer.json()).get("entries"))]

    async def stat(self, path: str) -> FileInfo:
        """Describes a file; a symlink is not followed."""
        answer = await self._plane.request(Call("GET", "/files/stat", query=[("path", _checks.path(path))]))
        return file_info(answer.json())

    async def exists(self, path: str) -> bool:
        """Whether there is a file, a directory or a symlink at ``path``. False also when the sandbox is deleted."""
        try:
            await self.stat(path)
        except NotFoundError:
            return False
        return True

    async def mkdir(self, path: str) -> None:
        """Makes a directory with its parents; it may exist already."""
        (await self._plane.request(Call("POST", "/files/mkdir", query=[("path", _checks.path(path))]))).done()

    async def move(self, source: str, destination: str) -> None:
        """Moves or renames a file or a directory; a file at ``destination`` is replaced."""
        body = _checks.to_json({"from": _checks.path(source), "to": _checks.path(destination)})
        (await self._plane.request(Call("POST", "/files/move", body=body))).done()

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Deletes a file or an empty directory; with ``recursive`` a directory and all it holds."""
        query = [("path", _checks.path(path))] + ([("recursive", "true")] if recursive else [])
        (await self._plane.request(Call("DELETE", "/files", query=query))).done()

    def watch(self, path: str, *, recursive: bool = False) -> AsyncWatch:
        """Changes of a file or in a directory, until it is closed or what it watches is gone.

        It is in place when the ``async with`` block begins. A connection that breaks is an error.
        """
        query = [("path", _checks.path(path))] + ([("recursive", "true")] if recursive else [])
        return AsyncWatch(self._plane, Call("GET", "/files/watch", query=query, idle_timeout=STREAM_IDLE_TIMEOUT))

    async def _download(self, query: builtins.list[tuple[str, str]], max_bytes: int) -> bytes:
        answer = await self._plane.request(Call("GET", "/files", query=query, max_bytes=max_bytes, needs_whole=True))
        return answer.body

    async def _upload(
        self, path: str, content: UploadContent, content_type: str, query: builtins.list[tuple[str, str]]
    ) -> WrittenFile:
        check_content(content)
        call = Call("POST", "/files", query=[("path", _checks.path(path)), *query], content_type=content_type)
        answer = await self._plane.upload(call, content)
        if not answer.body:
            raise invalid_response("nothing where the written size should be", answer.status_code)
        return written_file(answer.json())
