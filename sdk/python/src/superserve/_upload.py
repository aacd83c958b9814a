"""Uploads in pieces, so that a large one neither is copied whole nor runs into one write's timeout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Optional, Union

from ._checks import utf8
from .errors import ValidationError

CHUNK_BYTES = 256 << 10

Whole = Union[str, bytes, bytearray, memoryview]


def slices(content: Whole) -> Iterator[bytes]:
    """The pieces of content that is there as a whole."""
    view = memoryview(utf8(content, "the content") if isinstance(content, str) else content)
    view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


def size_of(content: object) -> Optional[int]:
    """How many bytes content has, None when only reading it tells."""
    if isinstance(content, str):
        return len(utf8(content, "the content"))
    if isinstance(content, (bytes, bytearray)):
        return len(content)
    return content.nbytes if isinstance(content, memoryview) else None


def as_bytes(data: object) -> bytes:
    """A piece that a file object or an iterator gave; text becomes UTF-8."""
    if isinstance(data, str):
        return utf8(data, "the content")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise ValidationError(f"content must be made of bytes, not of {type(data).__name__}")


def check_content(content: object) -> None:
    """Refuses what can't be uploaded before a connection is opened."""
    if isinstance(content, (str, bytes, bytearray, memoryview)):
        return
    # The keys of a mapping would be written, without its values.
    if isinstance(content, Mapping) or not any(hasattr(content, name) for name in ("read", "__iter__", "__aiter__")):
        raise ValidationError(f"content must be str, bytes, a file object or an iterator, not {type(content).__name__}")
