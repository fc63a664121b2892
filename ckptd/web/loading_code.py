"""The lines that load a tensor: in numpy, TensorFlow, PyTorch and JAX, and at the command line.

Names are written so that the lines can be copied as they are, whatever is in them.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ckptd.format import dtypes
from ckptd.format.stored import StoredTensor

_MOST_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class CodeLines:
    """Lines of one framework: `label` is how it is called, `key` what it is in JSON."""

    key: str
    label: str
    text: str


def loading_code(prefix: str, tensor: StoredTensor) -> list[CodeLines]:
    """Return the lines of each framework that can load a tensor; none for a name of thousands of characters.

    TensorFlow cannot join slices of some dtypes, and of a bucket it reads only what its own plug-ins reach. Strings and
    variants are of no use to torch and JAX.
    """
    name = tensor.name
    if len(name) > _MOST_CHARACTERS or len(prefix) > _MOST_CHARACTERS:
        return []
    where = f"{_literal(prefix)}, {_literal(name)}"
    found = [CodeLines("numpy", "numpy", f"import ckptd\n\nw = ckptd.load_variable({where})\n{_part(prefix, tensor)}")]
    is_local = "://" not in prefix
    if is_local and _is_text(prefix + name) and (tensor.dtype.joinable or not tensor.is_sliced):
        found.append(
            CodeLines("tensorflow", "TensorFlow", f"import tensorflow as tf\n\nw = tf.train.load_variable({where})\n")
        )
    if tensor.dtype.width:
        if tensor.dtype.name in _OF_TORCH:
            text = f"import ckptd\nimport ckptd.torch\n\nw = ckptd.torch.tensor_of(ckptd.load_variable({where}))\n"
            found.append(CodeLines("torch", "PyTorch", text))
        if tensor.dtype.name in _OF_JAX:
            text = f"import ckptd\nimport jax.numpy as jnp\n\nw = jnp.asarray(ckptd.load_variable({where}))\n"
            found.append(CodeLines("jax", "JAX", text))
    if not tensor.dtype.is_variant:
        dashes = "-- " if name.startswith("-") else ""
        found.append(CodeLines("shell", "command line", f"ckptd cat {dashes}{shell_word(prefix)} {shell_word(name)}\n"))
    return found


def shell_word(text: str) -> str:
    """Return text as bash, zsh and ksh take it, with nothing in it that a terminal would obey."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
    return f"$'{escaped}'"


def _part(prefix: str, tensor: StoredTensor) -> str:
    """Return a line that loads a part, where that makes sense: reading all of a large tensor may take long."""
    if not tensor.shape or not tensor.dtype.width or 0 in tensor.shape or tensor.shape[0] < 2:
        return ""
    start = tuple(0 for _ in tensor.shape)
    shape = (min(4, tensor.shape[0] // 2), *tensor.shape[1:])
    return (
        f"part = ckptd.load_checkpoint({_literal(prefix)}).get_slice({_literal(tensor.name)}, {start}, {shape})"
        "  # (start, shape)\n"
    )


def _literal(text: str) -> str:
    """Return a literal of Python that has nothing invisible in it; `repr` escapes what is not printable."""
    return repr(text)


def _is_text(text: str) -> bool:
    """Say whether there are no bytes in it that are no UTF-8: other programs cannot be given such a name."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


_OF_NUMPY = frozenset(
    each.name
    for each in dtypes.ALL
    if each.array is not None and each.array.kind in "biufc" and each.array.isbuiltin == 1
)
_OF_TORCH = _OF_NUMPY | {
    "bfloat16",
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
}
_OF_JAX = _OF_NUMPY | {
    "bfloat16",
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e4m3b11fnuz",
    "float8_e5m2fnuz",
    "int4",
    "uint4",
}
