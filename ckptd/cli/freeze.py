"""`ckptd freeze`: write a checkpoint of TensorFlow and its graph as one file, for programs that only compute."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ckptd.cli import output
from ckptd.errors import CkptdError, ConflictError, NotFoundError


@click.command()
@click.argument("prefix")
@click.argument("file", metavar="OUT.pb")
@click.option(
    "--outputs",
    required=True,
    multiple=True,
    metavar="NAME[,NAME…]",
    help="The operations to keep; what they don't need is left out. May be repeated.",
)
@click.option("--meta", metavar="FILE", help="The graph; PREFIX.meta if not given.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(prefix: str, file: str, outputs: tuple[str, ...], meta: str | None, force: bool, as_json: bool) -> None:
    """Write the graph beside the checkpoint at PREFIX, its variables replaced by their values, as one GraphDef.

    It takes the .meta file that a Saver writes with its checkpoints, and TensorFlow: pip install 'ckptd[tensorflow]'.
    """
    from ckptd.cli import places
    from ckptd.engine.catalog.presence import has_object
    from ckptd.storage.locations import split_prefix

    names = [name.strip() for given in outputs for name in given.split(",") if name.strip()]
    store, key = places.checkpoint(places.look(prefix))
    to, at = split_prefix(file)
    if not force and has_object(to, at):
        raise ConflictError("there is a file of this name already; --force replaces it", key=to.location(at))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _without_chatter():
            from ckptd.tensorflow.freeze import freeze_stored
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tensorflow":
            raise
        raise NotFoundError(
            "freezing a graph takes TensorFlow, which is not installed here: pip install 'ckptd[tensorflow]'"
        ) from error
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it advises against the functions that do this
    with _without_chatter():
        frozen = freeze_stored(store, key, names, meta_graph=meta)
    to.replace(at, frozen)
    if as_json:
        output.emit_json(
            {
                "prefix": store.location(key),
                "file": to.location(at),
                "outputs": names,
                "size_bytes": len(frozen),
            }
        )
        return
    output.tell(f"{to.location(at)}: {', '.join(names)} of {key}, {output.size(len(frozen))}")


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep TensorFlow's C++ messages off stderr; they are shown if the block fails for an unknown reason."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except (CkptdError, ModuleNotFoundError):
            raise
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
