"""Recognize other files in the place of a checkpoint's by their first bytes, and say how to get the right one."""

from __future__ import annotations

HEAD_BYTES = 64
"""How many bytes of a file are needed for that."""

_BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the file that it stands for"),
    (b"PK\x03\x04", "a zip file, such as torch.save, numpy.savez and Keras write"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\x80\x02", "a pickle, such as old versions of torch.save write"),
    (b"\x80\x04", "a pickle, such as old versions of torch.save write"),
)
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def recognized(head: bytes) -> str | None:
    """Return what a file is that begins with `head`, as a clause after "it is"; None for anything else."""
    for beginning, told in _BEGINNINGS:
        if head.startswith(beginning):
            return told
    if head.lstrip(b" \t\r\n\xef\xbb\xbf").lower().startswith(_PAGES):
        return "a page of a web server, which was stored in place of the file; download the file itself again"
    return None


def hint(head: bytes) -> str:
    """Return what to append to an error about a file that begins with `head`; nothing where nothing is known."""
    told = recognized(head)
    return f"; it is {told}" if told else ""
