"""Errors of saves that are over, without what the frames of their tracebacks hold.

An ended save is remembered for a while, and its error with it. A traceback keeps every local variable of the frames
that the error passed through: captured memory, manifests, blocks of tensors.
"""

from __future__ import annotations

import copy
import traceback

from ckptd.errors import CkptdError


def remembered(error: CkptdError) -> CkptdError:
    """Return an equal error without a traceback: the original may go on collecting frames on its way to its caller."""
    twin = copy.copy(error)
    for note in getattr(error, "__notes__", ()):
        twin.add_note(note)
    twin.__cause__ = error.__cause__
    return twin


def forget_frames(error: BaseException) -> None:
    """Clear what the frames of an error's traceback, and of its causes', hold. Its lines can still be shown."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
