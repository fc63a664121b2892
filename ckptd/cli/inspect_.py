"""`ckptd inspect`: the text of TensorFlow's inspect_checkpoint, for scripts that parse it.

Source: TensorFlow ``tensorflow/python/tools/inspect_checkpoint.py``. Like that tool it prints errors on stdout; unlike
it, an error also has an exit code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import click

from ckptd.cli import output
from ckptd.errors import CkptdError, CorruptionError, InvalidRequestError, NotFoundError
from ckptd.printable import printable

if TYPE_CHECKING:
    from ckptd.engine.reading.bundle import Bundle
    from ckptd.storage.base import Store

_FLAGS = ("--all_tensors", "--all-tensors", "--all_tensor_names", "--all-tensor-names")
_PAIR = re.compile(r"\w+=[^=]*")


class _TensorFlowsCommand(click.Command):
    """Takes ``--all_tensors=true`` too: TensorFlow's tool lets its flags have values, and options several."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_plain(args)))


@click.command(cls=_TensorFlowsCommand)
@click.argument("prefix", metavar="[PREFIX]", required=False)
@click.option("--file_name", "--file-name", help="PREFIX, as TensorFlow's tool takes it.")
@click.option("--tensor_name", "--tensor-name", default="", metavar="NAME", help="Print this tensor.")
@click.option("--all_tensors", "--all-tensors", is_flag=True, help="Print all tensors with their values.")
@click.option("--all_tensor_names", "--all-tensor-names", is_flag=True, help="Print all names, dtypes and shapes.")
@click.option(
    "--count_exclude_pattern",
    "--count-exclude-pattern",
    default="",
    metavar="REGEX",
    help="Leave out tensors whose name matches when counting parameters.",
)
@click.option(
    "--printoptions",
    multiple=True,
    metavar="K=V …",
    help="Print values as numpy.set_printoptions() says, as in threshold=100000 precision=3.",
)
@click.option("--raw", is_flag=True, help="Print control characters of names as they are, as TensorFlow's tool does.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
def command(
    prefix: str | None,
    file_name: str | None,
    tensor_name: str,
    all_tensors: bool,
    all_tensor_names: bool,
    count_exclude_pattern: str,
    printoptions: tuple[str, ...],
    raw: bool,
    as_json: bool,
) -> int:
    """Print exactly what TensorFlow's inspect_checkpoint prints for the checkpoint at PREFIX. What a
    terminal would obey is written as escapes, unless with --raw.

    Without options that is a line per stored entry. For people there is `ckptd show`.
    """
    import numpy as np

    from ckptd.cli import places
    from ckptd.engine.reading.bundle import Bundle
    from ckptd.format.names import index_key
    from ckptd.storage.locations import split_prefix

    place = prefix or file_name
    if place is None:
        raise InvalidRequestError("inspect needs a PREFIX")
    try:
        pattern = re.compile(count_exclude_pattern) if count_exclude_pattern else None
    except re.error as e:
        raise InvalidRequestError(f"--count_exclude_pattern is no regular expression: {e}") from e
    options = dict(map(_printoption, printoptions))
    if as_json:
        output.emit_json(document(places.bundle(places.look(place))[1], tensor_name, all_tensors, pattern))
        return 0
    store, key = split_prefix(place)
    try:
        try:
            store.stat(index_key(key))
        except NotFoundError:
            answer = _old_format(store, key, place)
        else:
            answer = lines(Bundle.open(store, key), tensor_name, all_tensors, all_tensor_names, pattern, raw)
        with np.printoptions(**options):
            for text in answer:
                _print(text, raw)
    except CkptdError as error:
        # The reason alone, on stdout, as TensorFlow's tool prints it.
        _print(error.reason if error.key is None else str(error), raw)
        return error.exit_code
    return 0


def lines(
    bundle: Bundle,
    tensor_name: str,
    all_tensors: bool,
    all_tensor_names: bool,
    exclude: re.Pattern[str] | None,
    raw: bool = False,
) -> Iterator[str]:
    """Yield the lines of the answer, without their ends. Names are made printable first, unless `raw`."""
    from ckptd.client.restoring.reader import CheckpointReader

    reader = CheckpointReader(bundle)
    if all_tensors or all_tensor_names:
        for name in sorted(bundle.names()):
            yield _headline(bundle, name, raw)
            if all_tensors:
                is_variant = bundle.dtype(name).is_variant
                yield "<not convertible to a numpy dtype>" if is_variant else str(reader.get_tensor(name))
    elif not tensor_name:
        if raw:
            yield reader.debug_string().decode("utf-8", errors="ignore")
        else:
            yield "".join(f"{printable(line.decode('utf-8', 'ignore'))}\n" for line in reader.debug_lines())
    elif tensor_name not in bundle.index:
        raise NotFoundError(f"Tensor {tensor_name} not found in checkpoint")
    else:
        yield _headline(bundle, tensor_name, raw)
        yield str(reader.get_tensor(tensor_name))
    counted = _count(bundle, exclude)
    if exclude is not None:
        yield (
            f"# Excluding {counted.num_excluded_tensors} tensors ({counted.num_excluded_params} params) "
            f"that match {exclude.pattern} when counting."
        )
    yield f"# Total number of params: {counted.num_params}"


def document(bundle: Bundle, tensor_name: str, all_tensors: bool, exclude: re.Pattern[str] | None) -> dict[str, object]:
    """Return the same as one JSON object: all tensors or the one that is named, with values where they are requested.

    Raises:
        NotFoundError: when there is no tensor of that name.
    """
    from ckptd.cli import places
    from ckptd.cli.cat import json_values

    if tensor_name:
        places.check_names(bundle, [tensor_name])
    tensors = []
    for name in [tensor_name] if tensor_name else sorted(bundle.names()):
        dtype = bundle.dtype(name)
        said: dict[str, object] = {"name": name, "dtype": dtype.name, "shape": bundle.shape(name)}
        if all_tensors or tensor_name:
            said["values"] = None if dtype.is_variant else json_values(bundle.read(name))
        tensors.append(said)
    return {"prefix": bundle.location, "tensors": tensors, **asdict(_count(bundle, exclude))}


@dataclass(frozen=True, slots=True)
class _Count:
    num_params: int
    num_excluded_tensors: int
    num_excluded_params: int


def _count(bundle: Bundle, exclude: re.Pattern[str] | None) -> _Count:
    """Count elements, leaving out tensors whose name matches."""
    counted = {name: prod(bundle.shape(name)) for name in bundle.names()}
    left_out = [name for name in counted if exclude is not None and exclude.search(name)]
    excluded = sum(counted.pop(name) for name in left_out)
    return _Count(sum(counted.values()), len(left_out), excluded)


def _headline(bundle: Bundle, name: str, raw: bool) -> str:
    return f"tensor: {name if raw else printable(name)} ({bundle.dtype(name).name}) {list(bundle.shape(name))}"


def _old_format(store: Store, key: str, place: str) -> Iterator[str]:
    """Answer as TensorFlow does for a name without an index: it reads the file as a table of its first format.

    An index is such a table, and one without tensors; a data file is none.
    """
    from ckptd.format.table import FOOTER_SIZE, Footer

    try:
        size = store.stat(key).size_bytes
    except NotFoundError as e:
        raise NotFoundError(
            f"Unsuccessful TensorSliceReader constructor: Failed to find any matching files for {place}"
        ) from e
    ending = bytearray(min(size, FOOTER_SIZE))
    store.read_into(key, size - len(ending), memoryview(ending))
    try:
        Footer.decode(bytes(ending))
    except CorruptionError as e:
        raise CorruptionError(
            f"Unable to open table file {place}: DATA_LOSS: not an sstable (bad magic number): perhaps your file is in "
            "a different file format and you need to use a different restore operator?"
        ) from e
    yield ""
    yield "# Total number of params: 0"


def _plain(args: list[str]) -> Iterator[str]:
    """Yield arguments as click takes them: a flag that is false is left out, an option is repeated for each value."""
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if name in _FLAGS:
            if not equals and rest and rest[0].lower() in ("true", "false"):
                value = rest.pop(0)
            if value.lower() in ("", "true"):
                yield name
        elif arg == "--printoptions":
            yield arg
            yield rest.pop(0) if rest else ""
            while rest and _PAIR.fullmatch(rest[0]):
                yield arg
                yield rest.pop(0)
        else:
            yield arg


def _printoption(text: str) -> tuple[str, Any]:
    """Read ``precision=3`` as what numpy takes, in the words of TensorFlow's tool where it refuses one."""
    import numpy as np

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidRequestError(f"'{text}' is not in the form k=v.")
    known: dict[str, Any] = dict(np.get_printoptions())
    if name not in known:
        raise InvalidRequestError(f"'{name}' is not a valid printoption.")
    kind = type(known[name])
    if known[name] is None or kind is dict:
        raise InvalidRequestError(f"Setting '{name}' from the command line is not supported.")
    if kind is bool:
        if value.lower() not in ("true", "false", "1", "0"):
            raise InvalidRequestError(f"printoption {name} is true or false, not {value}")
        return name, value.lower() in ("true", "1")
    try:
        return name, kind(value)
    except ValueError as error:
        raise InvalidRequestError(f"printoption {name} cannot be {value}") from error


def _print(text: str, raw: bool) -> None:
    """Print lines; raw as TensorFlow does, which prints the encoded keys of slices with all their control bytes."""
    if raw:
        print(text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))  # noqa: T201
    else:
        output.say(text, lines=True)
