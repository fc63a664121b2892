"""`ckptd run`: the daemons of a job on this node, around the command that trains."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from ckptd.errors import InvalidRequestError


@click.command(
    "run",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
    epilog="Further settings of the daemons come from the environment, as for serve (CKPTD_ARENA_BYTES=…).",
)
@click.argument("command_line", metavar="-- COMMAND [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--root", envvar="CKPTD_ROOT", metavar="URL", required=True, help="Where checkpoints are kept.")
@click.option(
    "--job-dir",
    metavar="DIR",
    help="On several nodes: a directory of yours that all see; the first makes the job's secrets in it.",
)
@click.option("--first", is_flag=True, help="This is the first node: the coordinator runs here.")
@click.option(
    "--advertise", metavar="HOST", help="Where other nodes reach this one. [default: the address that leads out]"
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="On the first node: the coordinator's port. [default: any that is free]",
)
@click.option(
    "--coordinator", "coordinators", metavar="ADDR", multiple=True, help="One that runs already; may be repeated."
)
@click.option("--ca", metavar="FILE", help="With --coordinator: PEM of the authority of its certificate.")
@click.option("--token-file", metavar="FILE", help="With --coordinator: the token that it requires.")
@click.option("--name", metavar="NAME", help="Of this host. [default: SLURMD_NODENAME, NODE_NAME or the host name]")
@click.option(
    "--shared-directory",
    is_flag=True,
    help="The root is a directory that all nodes mount (NFS, Lustre); what that needs is tried at the start.",
)
@click.option("--log-dir", metavar="DIR", help="For the daemons' logs. [default: with --job-dir, DIR/logs in that]")
@click.option(
    "--grace-s",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="How long saves under way are waited for at the end.",
)
@click.option(
    "--start-s",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="How long the daemons may take to start, and to find each other.",
)
def command(
    command_line: tuple[str, ...],
    root: str,
    job_dir: str | None,
    first: bool,
    advertise: str | None,
    port: int,
    coordinators: tuple[str, ...],
    ca: str | None,
    token_file: str | None,
    name: str | None,
    shared_directory: bool,
    log_dir: str | None,
    grace_s: float,
    start_s: float,
) -> int:
    """Run a command that trains, with the daemon that it saves through.

    On one node that is a daemon. On several, each node runs this command: each gets an agent, and the first one the
    coordinator. Which node this is, and how many there are, is known from SLURM (SLURM_NODEID, SLURM_NNODES), or from
    NODE_RANK and NNODES; otherwise pass --job-dir on all, and --first on one. The command finds its daemon by
    CKPTD_ADDRESS.

    When the command has ended, or after SIGTERM, which it gets, saves under way are waited for; then everything that
    was started here ends. The exit code is the command's, or 5 if a save that was accepted was lost.
    """
    from ckptd.job import nodes
    from ckptd.job.front import in_two
    from ckptd.job.job import Job, JobOptions
    from ckptd.storage.locations import check_is_directory

    if shared_directory:
        check_is_directory(root)  # or nodes but the first would wait for a coordinator that cannot start
    if coordinators and (first or job_dir is not None):
        raise InvalidRequestError("--coordinator names one that runs: --first and --job-dir are for one started here")
    if not coordinators and (ca is not None or token_file is not None):
        raise InvalidRequestError("--ca and --token-file belong to --coordinator")
    if coordinators and shared_directory:
        raise InvalidRequestError(
            "--coordinator names one that runs: --shared-directory belongs to its start, by `ckptd serve --role "
            "coordinator --shared-directory`. Leave it out here; or, for a coordinator of this job alone, leave out "
            "--coordinator and pass --job-dir on all nodes"
        )
    node = nodes.node_of(os.environ, is_first=first, expects_others=job_dir is not None)
    if shared_directory and node.is_alone:
        raise InvalidRequestError(
            "--shared-directory is for several nodes, and this is the only one: leave it out, or pass --job-dir on all"
        )
    if not node.is_alone and not coordinators and job_dir is None:
        raise InvalidRequestError(
            f"there are several nodes ({node.said_by}): pass --job-dir, a directory of yours that all of them see, or "
            "--coordinator with the address of one that runs"
        )
    if coordinators and (advertise is not None or port):
        raise InvalidRequestError("--advertise and --port are of nodes that find each other by --job-dir")
    logs = None if log_dir is None and job_dir is None else Path(log_dir or f"{job_dir}/logs").absolute()
    options = JobOptions(
        root=root,
        command=command_line,
        node=node,
        job_dir=None if job_dir is None else Path(job_dir).absolute(),
        advertise=advertise,
        port=port,
        coordinator=coordinators,
        ca=ca,
        token_file=token_file,
        name=name,
        shared_directory=shared_directory,
        log_dir=logs,
        grace_s=grace_s,
        start_s=start_s,
    )
    logging.basicConfig(format="ckptd run: %(message)s")
    if node.caveat and not coordinators:
        logging.getLogger("ckptd.run").warning("%s", node.caveat)
    return in_two(lambda orders, mask: Job(options, os.environ, orders, mask=mask, note=orders.note).run())
