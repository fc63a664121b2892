"""What a version of torch has: tests run on the oldest that is supported, too, and on the newest."""

from __future__ import annotations

import torch


def has(major, minor):
    """Tell whether this torch is at least so new; cases of what torch itself has only since then are made so."""
    return tuple(int(number) for number in torch.__version__.split(".")[:2]) >= (major, minor)
