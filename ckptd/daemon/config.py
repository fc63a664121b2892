"""The daemon's settings: one schema, from which flags, environment, file and `--print-config` follow.

A flag wins over the environment (``CKPTD_GRACE_S``), that over the TOML file, that over the default. A key that the
schema lacks is an error and not a wish, as a misspelt ``token_file`` would otherwise leave a daemon open.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from ckptd.daemon.setting import Setting, as_toml, checked, from_text
from ckptd.engine.priority import IO_CLASSES
from ckptd.errors import InvalidRequestError, NotFoundError, NotPermittedError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OWNERS = ("whole", "coordinator")  # roles that own the root
_WRITERS = ("whole", "agent")  # roles that lend memory to ranks

ENVIRONMENT_PREFIX = "CKPTD_"
CONFIG_VARIABLE = "CKPTD_CONFIG"


def _setting(default: Any, kind: str, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(kind, help, **more)})


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of `ckptd serve`, checked. Times in seconds, sizes in bytes."""

    root: str = _setting("", "text", "Where checkpoints are kept: a directory or a store's URL.", metavar="URL")
    role: str = _setting(
        "whole",
        "text",
        "What this process is: whole, which writes all checkpoints itself; or of many hosts the coordinator, which "
        "plans and commits, or the agent of one, which writes what the ranks of its host save.",
        choices=("whole", "coordinator", "agent"),
    )
    coordinator: tuple[str, ...] = _setting(
        (),
        "texts",
        "Of an agent: where its coordinator is, may be repeated. [default: where the root says]",
        metavar="ADDR",
        roles=("agent",),
    )
    ca: str | None = _setting(
        None,
        "text",
        "Of an agent: PEM file of the authority that signed the coordinator's certificate.",
        metavar="FILE",
        optional=True,
        roles=("agent",),
    )
    coordinator_token_file: str | None = _setting(
        None,
        "text",
        "Of an agent: file with the token that it shows its coordinator; read again when it changes.",
        metavar="FILE",
        optional=True,
        roles=("agent",),
    )
    cert: str | None = _setting(
        None,
        "text",
        "Of an agent: PEM file of the certificate that it shows its coordinator.",
        metavar="FILE",
        optional=True,
        roles=("agent",),
    )
    key: str | None = _setting(
        None, "text", "Of an agent: PEM file of its key.", metavar="FILE", optional=True, roles=("agent",)
    )
    name: str | None = _setting(
        None,
        "text",
        "Of an agent: the name of this host, which stays and which no other has. [default: SLURMD_NODENAME, "
        "NODE_NAME, or else the host name]",
        optional=True,
        roles=("agent",),
    )
    advertise: tuple[str, ...] = _setting(
        (),
        "texts",
        "Of a coordinator or agent: where agents of other hosts reach it, best first, may be repeated. "
        "[default: where it listens]",
        metavar="ADDR",
        roles=("coordinator", "agent"),
    )
    peer_name: str | None = _setting(
        None,
        "text",
        "Of an agent: the host name that the certificates of all agents are for, where their addresses are in none, as "
        "those of pods. [default: the host of each one's address]",
        optional=True,
        roles=("agent",),
    )
    agent_lease_s: float = _setting(
        15.0,
        "seconds",
        "Of a coordinator: how long an agent may be silent before its host counts as gone.",
        least=0.1,
        roles=("coordinator",),
    )
    shared_directory: bool = _setting(
        False,
        "flag",
        "Of a coordinator: the root is a directory that all hosts mount (NFS, Lustre); what that needs is tried at "
        "every start.",
        roles=("coordinator",),
    )
    listen: tuple[str, ...] = _setting(
        (),
        "texts",
        "Address to listen on, may be repeated: host:port, grpcs://host:port, unix:///path. "
        "Port 0 means any free one. [default: a socket in the user's runtime directory]",
        metavar="ADDR",
    )
    http: str | None = _setting(
        None,
        "text",
        "Also serve health and metrics over HTTP, at host:port, http://host:port or https://host:port; a missing port "
        "is 7080. Needs the extra ckptd[web]. [default: not at all]",
        metavar="ADDR",
        optional=True,
    )
    insecure_loopback: bool = _setting(
        False,
        "flag",
        "Let every process of this host, of any user, do everything over addresses such as 127.0.0.1:7070.",
    )
    tls_cert: str | None = _setting(None, "text", "PEM file: our certificate chain.", metavar="FILE", optional=True)
    tls_key: str | None = _setting(None, "text", "PEM file: the certificate's key.", metavar="FILE", optional=True)
    client_ca: str | None = _setting(
        None,
        "text",
        "PEM file: serve only clients with a certificate of this authority.",
        metavar="FILE",
        optional=True,
    )
    token_file: str | None = _setting(
        None, "text", "File with the bearer token that every call must present.", metavar="FILE", optional=True
    )
    tokens: str | None = _setting(
        None,
        "text",
        "File of named tokens, see ckptd token; read again when it changes.",
        metavar="FILE",
        optional=True,
    )
    policy: str | None = _setting(
        None,
        "text",
        "TOML file that says which identity may do what; without it each may do all. Read again when it changes.",
        metavar="FILE",
        optional=True,
    )
    audit_log: str | None = _setting(
        None,
        "text",
        "Append to this file what happens and by which identity, one JSON object a line; SIGHUP opens it again.",
        metavar="FILE",
        optional=True,
    )
    audit_required: bool = _setting(
        False, "flag", "What cannot be recorded in the audit log does not happen, saves included."
    )
    socket_mode: str = _setting("0600", "text", "Permissions of Unix sockets, in octal.", metavar="MODE")
    ready_file: str | None = _setting(
        None, "text", "Write addresses and pid here as JSON once ready.", metavar="FILE", optional=True
    )
    grace_s: float = _setting(20.0, "seconds", "How long to wait at the end for saves in progress.")
    declare_timeout_s: float = _setting(30.0, "seconds", "From the first rank's declaration to the last's.", least=0.1)
    stall_timeout_s: float = _setting(30.0, "seconds", "How long a rank that owes bytes may send none.", least=0.1)
    undo_s: float = _setting(
        600.0, "seconds", "How long a deleted checkpoint can be brought back.", least=0.0, roles=_OWNERS
    )
    lease_s: float = _setting(5.0, "seconds", "How long a lost connection may take to return.", least=0.1)
    shards: int | None = _setting(
        None,
        "integer",
        "Data shards per checkpoint. [default: one per rank, at most 32]",
        least=1,
        optional=True,
        roles=("whole",),
    )
    allow_unfenced: bool = _setting(
        False, "flag", "Serve a bucket that ignores conditions, where nothing excludes a second daemon.", roles=_OWNERS
    )
    when_taken_over: str = _setting(
        "stay",
        "text",
        "In a bucket, when another owner has taken runs over: stay, and report NOT_SERVING; end, once all runs in use "
        "are gone, with exit code 4; or take-back, at once and then at most once a minute.",
        choices=("stay", "end", "take-back"),
        roles=_OWNERS,
    )
    arena_bytes: int | None = _setting(
        None,
        "integer",
        "Shared memory for workers of this host, in all; 0: none. [default: half of the memory, taken as it is needed]",
        optional=True,
        roles=_WRITERS,
    )
    arena_socket: str | None = _setting(
        None,
        "text",
        "Path of the socket over which it is lent. [default: beside the Unix socket]",
        metavar="PATH",
        optional=True,
        roles=_WRITERS,
    )
    data_threads: int = _setting(8, "integer", "Threads that write and read data.", least=1)
    control_threads: int = _setting(16, "integer", "Threads for everything else.", least=1)
    stream_processes: int = _setting(
        0,
        "integer",
        "Processes that take other hosts' streams beside the daemon's own, from the first stream on, where there are "
        "cores to spare.",
        most=64,
    )
    stream_port: int = _setting(
        0, "integer", "Port of the first of them; the others have the next ones. 0: any that are free.", most=65535
    )
    scrub_bytes_per_s: int | None = _setting(
        None,
        "integer",
        "Read all checkpoints again in the background, at most this fast, to find damage early. [default: not at all]",
        least=1_000_000,
        optional=True,
        roles=_OWNERS,
    )
    scrub_every_s: float = _setting(
        7 * 86400.0,
        "seconds",
        "How long after it was last verified a checkpoint is read again.",
        least=1.0,
        roles=_OWNERS,
    )
    write_bytes_per_s: int | None = _setting(
        None,
        "integer",
        "Write no faster than this, all saves together. [default: as fast as the store can]",
        least=1_000_000,
        optional=True,
    )
    writer_nice: int | None = _setting(
        None, "integer", "Nice value of the threads that move data, up to 19.", most=19, optional=True
    )
    writer_io_class: str | None = _setting(
        None,
        "text",
        "Priority at the disk of the threads that move data. [default: as other processes]",
        choices=IO_CLASSES,
        optional=True,
    )
    max_manifest_bytes: int = _setting(64 << 20, "integer", "The largest manifest that a rank may send.", least=1 << 10)
    max_write_streams: int = _setting(128, "integer", "Write streams that are read concurrently.", least=1)
    connection_idle_s: float = _setting(
        600.0, "seconds", "Close a connection that makes no call for so long; clients connect again. 0: never."
    )
    connection_age_s: float = _setting(
        6 * 3600.0,
        "seconds",
        "Have clients connect anew, and show their identity anew, after so long; saves go on. 0: never.",
    )
    log_format: str = _setting("human", "text", "Format of log lines.", choices=("human", "json"))
    log_level: str = _setting(
        "info", "text", "Lowest level that is logged.", choices=("debug", "info", "warning", "error")
    )


@dataclass(frozen=True, slots=True)
class SourcedConfig:
    """A configuration, and for every setting where it came from."""

    config: Config
    sources: Mapping[str, str]


def settings() -> Iterator[tuple[str, Setting, Any]]:
    """Yield name, setting and default, in the order of the schema."""
    for declared in fields(Config):
        yield declared.name, _of(declared), declared.default


def load(flags: Mapping[str, Any], environ: Mapping[str, str], *, config_file: str | None = None) -> SourcedConfig:
    """Put a configuration together. `flags` holds what was given on the command line; None and () are "not given".

    Raises `InvalidRequestError` that names the setting and where it was set, `NotFoundError` for a missing file.
    """
    config_file = config_file or environ.get(CONFIG_VARIABLE) or None
    values: dict[str, Any] = {}
    sources: dict[str, str] = {name: "default" for name, _, _ in settings()}
    schema = {name: setting for name, setting, _ in settings()}
    for name, value in (_read(config_file) if config_file else {}).items():
        if name not in schema:
            raise InvalidRequestError(f"{config_file}: there is no setting {name!r}{_near(name, schema)}")
        values[name] = checked(schema[name], value, f"{name} in {config_file}")
        sources[name] = config_file or ""
    for name, setting in schema.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        if environ.get(variable):
            values[name] = checked(setting, from_text(setting, environ[variable], variable), variable)
            sources[name] = variable
    for name, value in flags.items():
        if value is not None and value != ():
            flag = "--" + name.replace("_", "-")
            values[name] = checked(schema[name], value, flag)
            sources[name] = flag
    loaded = SourcedConfig(Config(**values), sources)
    _check_flags(loaded, schema)
    return loaded


def _check_flags(loaded: SourcedConfig, schema: Mapping[str, Setting]) -> None:
    """Refuse a flag that does nothing in this role; a file and an environment may be shared by several."""
    for name, setting in schema.items():
        if setting.roles and loaded.config.role not in setting.roles and loaded.sources[name].startswith("--"):
            raise InvalidRequestError(
                f"{loaded.sources[name]} is for --role {' or '.join(setting.roles)}",
                actual=f"--role {loaded.config.role}",
            )


def to_toml(loaded: SourcedConfig) -> str:
    """Return a configuration as a file that `load` reads back the same, with the origin of every value."""
    lines = []
    for name, setting, _ in settings():
        value = getattr(loaded.config, name)
        lines.append(f"# {setting.help} ({loaded.sources[name]})")
        lines.append(f"# {name} =" if value is None else f"{name} = {as_toml(value)}")
    return "\n".join(lines) + "\n"


def _of(declared: Field[Any]) -> Setting:
    setting = declared.metadata["setting"]
    assert isinstance(setting, Setting)
    return setting


def _read(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError as e:
        raise NotFoundError("there is no such configuration file", key=path) from e
    except OSError as e:
        raise NotPermittedError(f"the configuration file cannot be read: {e.strerror}", key=path) from e
    except ValueError as e:  # TOML's errors and undecodable text
        raise InvalidRequestError(f"the configuration file is not TOML: {e}", key=path) from e


def _near(name: str, schema: Mapping[str, Setting]) -> str:
    near = difflib.get_close_matches(name, schema, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(schema)}"
