"""What libsndfile does not say of a file by its content: whether it is cut short, and where seeking goes wrong."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO, NamedTuple

_STREAMED = 0x7FFF0000  # sizes from here on stand in wav headers that were written before the end was known
_OTHERS = (b"RIFF", b"fLaC")
_PAGE_HEAD = 27  # bytes of an ogg page before the sizes of its segments (RFC 3533)
_PAGE = _PAGE_HEAD + 255 + 255 * 255  # bytes of one at most
_LAST = 4  # in the sixth byte of a page's head: the last of its stream


class Container(NamedTuple):
    """What a file is made of.

    Attributes:
        needed: bytes that the file must have at least; 0 if it does not tell.
        last_page: the frame that the last page of an ogg file begins with, about; None in other files.
        ended: False of an ogg file whose last page is not marked as the last of its stream: the file was cut between
            two pages, or never finished.
        maybe_mp3: whether it may be mp3, which begins like none of the others.
    """

    needed: int = 0
    last_page: int | None = None
    ended: bool = True
    maybe_mp3: bool = False


def container_of(file: BinaryIO, size: int) -> Container:
    """Look at the ends of a file of `size` bytes. Anything may be in it; faults beyond its size are not looked for."""
    file.seek(0)
    magic = file.read(12)
    if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
        return Container(_needed_by_wav(file))
    if magic[:4] == b"OggS":
        start = file.seek(max(0, size - 2 * _PAGE))
        return _ogg(file.read(), start)
    return Container(maybe_mp3=magic[:4] not in _OTHERS)


def _needed_by_wav(file: BinaryIO) -> int:
    """Up to the end of the data chunk, whose size libsndfile shortens to what is there."""
    while len(head := file.read(8)) == 8:
        length = struct.unpack("<I", head[4:])[0]
        if head[:4] == b"data":
            return file.tell() + length if length < _STREAMED else 0
        file.seek(length + length % 2, io.SEEK_CUR)
    return 0


def _ogg(tail: bytes, start: int) -> Container:
    """Up to the end of the last page, and the end of the page before it in which a packet ends.

    Args:
        tail: the end of the file, from the byte `start`, long enough for two pages.
    """
    page = tail.rfind(b"OggS")
    head = tail[page : page + _PAGE_HEAD]
    segments = head[-1] if len(head) == _PAGE_HEAD else 255
    sizes = tail[page + _PAGE_HEAD : page + _PAGE_HEAD + segments]
    # Where even the sizes are cut off, one byte more is needed than there is.
    end = page + _PAGE_HEAD + segments + sum(sizes) if len(sizes) == segments else len(tail) + 1

    ended = len(head) < _PAGE_HEAD or bool(head[5] & _LAST)
    frame = -1
    while page > 0 and frame < 0:
        page = tail.rfind(b"OggS", 0, page)
        if page >= 0:
            frame = struct.unpack("<q", tail[page + 6 : page + 14])[0]
    return Container(start + end, max(0, frame), ended)
