"""Directories as tars: copies, and build contexts."""

from __future__ import annotations

import os
import stat
import tarfile
from typing import IO

from .errors import ValidationError

#: The time of everything in a context, so that only names, contents and modes make its digest: 1980-01-01, the earliest
#: that ZIP can hold, for tools that pack the files again.
PACKED_AT = 315532800


def copy_tree(directory: str, spool: IO[bytes]) -> None:
    """Writes a directory to spool as a tar, with owners and times. spool is at its beginning then."""
    _must_be_directory(directory)
    with tarfile.open(fileobj=spool, mode="w") as archive:
        archive.add(directory, arcname=".")
    spool.seek(0)


def _must_be_directory(path: str) -> None:
    if not os.path.isdir(path):
        raise ValidationError(f"{path!r:.200} is no directory; a tar is given as open(path, 'rb') gives it")


def pack(directory: str, spool: IO[bytes]) -> int:
    """Writes what is in a directory to spool as a tar and returns its size. spool is at its beginning then."""
    _must_be_directory(directory)
    with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add_entries(archive, directory, "")
    size = spool.tell()
    spool.seek(0)
    return size


def _add_entries(archive: tarfile.TarFile, directory: str, prefix: str) -> None:
    for name in sorted(os.listdir(directory)):
        path, member = os.path.join(directory, name), tarfile.TarInfo(prefix + name)
        info = os.lstat(path)
        member.mode, member.mtime = stat.S_IMODE(info.st_mode) & 0o777, PACKED_AT
        if stat.S_ISDIR(info.st_mode):
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
            _add_entries(archive, path, f"{prefix}{name}/")
        elif stat.S_ISLNK(info.st_mode):
            member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, os.readlink(path)
            archive.addfile(member)
        elif stat.S_ISREG(info.st_mode):
            _add_file(archive, path, member)
        elif not stat.S_ISSOCK(info.st_mode):  # a socket is nothing without who listens
            raise ValidationError(f"{path!r:.200} is neither a file, a directory nor a symbolic link")


def _add_file(archive: tarfile.TarFile, path: str, member: tarfile.TarInfo) -> None:
    # It may have been replaced since: by a link, which is not followed, or by a FIFO, which is not waited for.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as content:
        info = os.fstat(content.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise ValidationError(f"{path!r:.200} was replaced while it was read")
        member.size = info.st_size
        archive.addfile(member, content)
