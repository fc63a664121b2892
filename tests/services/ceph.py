"""A real S3 server on this host: the gateway of Ceph over one monitor and one object daemon, all on loopback.

It keeps what it acknowledges, also when it is killed, and it honours every condition that ckptd relies on; mocks and
small servers honour fewer. There are packages of it in Debian. As a host's own release may be older than what is
wanted, it is installed into a root directory of its own, once for all test runs of a user.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.fakes.waiting import eventually
from tests.services.server import CannotRunError, answers, end, free_ports

SUITE = "forky"  # the Debian release with Ceph 20.2: checksums by part, conditions also on completing an upload
PACKAGES = ("ceph-mon", "ceph-osd", "radosgw")
DAEMONS = ("mon", "osd", "rgw")
OWNER = "test"  # the user to whom the bucket belongs
_AGAIN = ("-o", "Acquire::Retries=5")
_ROOM_BYTES = 20 << 30  # of a sparse file
_START_S = 120.0

# Runs a program in the root directory, with the data directory at the same path inside. The mounts end with it.
_INSIDE = """
root=$1; data=$2; shift 2
mount --make-rprivate / && mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" \
  && mount --bind "$data" "$root$data" && cd / && exec chroot "$root" "$@"
"""


def root_directory() -> Path:
    """Return where it is installed, or will be."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "ckptd-tests" / f"ceph-{SUITE}"


def install() -> Path:
    """Install it unless that is done, and return its root directory. Takes about two minutes, once.

    Raises:
        CannotRunError: when this host cannot.
    """
    if os.geteuid() != 0:
        raise CannotRunError("only root can give it a root directory of its own")
    for needed in ("unshare", "setpriv", "chroot"):
        if shutil.which(needed) is None:
            raise CannotRunError(f"there is no {needed} here")
    root = root_directory()
    root.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(root.parent / f"{root.name}.lock"):
        if not (root / ".ready").exists():
            if shutil.which("apt-get") is None:
                raise CannotRunError("it is installed from Debian's packages, and this host has no apt-get")
            _install(root)
    return root


def _install(root: Path) -> None:
    print(f"installing {', '.join(PACKAGES)} of Debian {SUITE} into {root}, once", file=sys.stderr)
    if shutil.which("debootstrap") is None:
        _run(["apt-get", *_AGAIN, "update"])
        _run(["apt-get", *_AGAIN, "install", "-y", "--no-install-recommends", "debootstrap"])
    script = Path("/usr/share/debootstrap/scripts") / SUITE
    if not script.exists():
        script.symlink_to("sid")
    for attempts_left in (2, 1, 0):  # it does not try a download again itself
        shutil.rmtree(root, ignore_errors=True)
        try:
            _run(["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(root)])
            break
        except CannotRunError:
            if not attempts_left:
                raise
    with suppress(OSError):
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    starts_nothing = root / "usr/sbin/policy-rc.d"
    starts_nothing.write_text("#!/bin/sh\nexit 101\n")
    starts_nothing.chmod(0o755)
    nowhere = root / "mnt"
    _run(_inside(root, nowhere, "apt-get", *_AGAIN, "-o", "Acquire::Check-Valid-Until=false", "update"))
    _run(_inside(root, nowhere, "apt-get", *_AGAIN, "install", "-y", "--no-install-recommends", *PACKAGES))
    _run(_inside(root, nowhere, "apt-get", "clean"))
    (root / ".ready").touch()


def _inside(root: Path, data: Path, *command: str) -> list[str]:
    where = "/mnt" if data == root / "mnt" else str(data)
    (root / where.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return ["unshare", "--mount", "sh", "-ec", _INSIDE, "inside", str(root), where, *command]


def _run(command: list[str], timeout_s: float = 900.0) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False
    )
    if done.returncode:
        tail = done.stdout.decode("utf-8", "replace")[-2000:]
        raise CannotRunError(f"{' '.join(command[-4:])} ended with exit code {done.returncode}:\n{tail}")


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Ceph:
    """One server with its data below `data`, an absolute path. Its processes end with this one."""

    def __init__(self, root: Path, data: Path, access_key: str, secret_key: str) -> None:
        self.endpoint = ""
        self._root = root
        self._data = data
        self.keys = (access_key, secret_key)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = 0
        self._monitor_port = 0

    def start(self) -> None:
        """Start what does not run; on the first call, lay out the data. Returns when it answers."""
        if not self._port:
            self._prepare()
        if not self._runs("mon"):
            self._launch("mon", "ceph-mon", "-f", "-i", "a")
        self._await("the monitor", lambda: answers(self._monitor_port))
        if not self._runs("osd"):
            self._prepare_disk()
            self._launch("osd", "ceph-osd", "-f", "-i", "0")
        if not self._runs("rgw"):
            self._launch("rgw", "radosgw", "-f", "-n", "client.admin")
        self._await("the gateway", lambda: answers(self._port))
        if not (self._data / "user").exists():
            self.add_user(OWNER, *self.keys)
            (self._data / "user").touch()

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        """Make a user, who may do nothing in the buckets of others but what their policies say."""
        self._call(
            "radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}",
            f"--access-key={access_key}", f"--secret-key={secret_key}",
        )  # fmt: skip

    def stop(self) -> None:
        """End all of it."""
        for name in reversed(DAEMONS):
            self._end(name, signal.SIGTERM)

    def kill9(self, *names: str) -> None:
        """Kill daemons as a power cut would, the gateway alone if none is named; `start` brings them back."""
        for name in names or ("rgw",):
            self._end(name, signal.SIGKILL)

    def _prepare(self) -> None:
        self._port, self._monitor_port = free_ports(2)
        self.endpoint = f"http://127.0.0.1:{self._port}"
        for name in ("run", "log", "mon", "osd", "rgw"):
            (self._data / name).mkdir(parents=True)
        cluster = str(uuid.uuid4())
        (self._data / "ceph.conf").write_text(self._configuration(cluster))
        data, keyring = self._data, str(self._data / "keyring")
        address = f"[v2:127.0.0.1:{self._monitor_port}]"
        self._plain("monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, str(data / "monmap"))
        all_of = [flag for what in ("mon", "osd", "mgr") for flag in ("--cap", what, "allow *")]
        self._plain("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._plain("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *all_of)
        of_disk = ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"]
        self._plain("ceph-authtool", keyring, "--gen-key", "-n", "osd.0", *of_disk)
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(data / "monmap"), "--keyring", keyring)

    def _prepare_disk(self) -> None:
        if (self._data / "osd/ready").exists():
            return
        name = str(uuid.uuid4())
        self._call("ceph", "--connect-timeout", "30", "osd", "new", name, "0")
        self._call("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", name, "--no-mon-config")
        (self._data / "osd/ready").touch()

    def _configuration(self, cluster: str) -> str:
        data = self._data
        return f"""[global]
fsid = {cluster}
mon initial members = a
mon host = v2:127.0.0.1:{self._monitor_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = {data}/keyring
run dir = {data}/run
admin socket = {data}/run/$name.asok
crash dir = {data}/log
log file = {data}/log/$name.log
mon cluster log file = {data}/log/cluster.log
log to stderr = false
err to stderr = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd heartbeat grace = 6
osd client watch timeout = 3
mon osd min down reporters = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 0
mon max pg per osd = 1000
[mon.a]
mon data = {data}/mon
[osd.0]
osd data = {data}/osd
osd objectstore = bluestore
osd memory target = 939524096
bluestore block size = {_ROOM_BYTES}
bluestore block wal create = false
bluestore block db create = false
bluestore cache autotune = false
bluestore cache size = 268435456
osd mclock skip benchmark = true
osd op num shards = 2
osd op num threads per shard = 2
[client.admin]
rgw data = {data}/rgw
rgw frontends = beast endpoint=127.0.0.1:{self._port}
rgw thread pool size = 64
rgw num control oids = 1
rgw exit timeout secs = 5
rgw mp lock max time = 10
rgw dynamic resharding = false
rgw gc obj min wait = 5
rgw gc processor period = 5
"""

    def _call(self, program: str, *arguments: str) -> None:
        self._plain(program, "-c", str(self._data / "ceph.conf"), *arguments)

    def _plain(self, *command: str) -> None:
        _run(_inside(self._root, self._data, *command), timeout_s=_START_S)

    def _launch(self, name: str, program: str, *arguments: str) -> None:
        command = _inside(self._root, self._data, program, *arguments, "-c", str(self._data / "ceph.conf"))
        with (self._data / f"log/{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _runs(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def _end(self, name: str, how: signal.Signals) -> None:
        end(self._processes.pop(name, None), how)

    def _await(self, what: str, has_come: Callable[[], bool]) -> None:
        def dead() -> list[str]:
            return [name for name, process in self._processes.items() if process.poll() is not None]

        with suppress(AssertionError):
            eventually(lambda: has_come() or dead(), what, within_s=_START_S)
        if not has_come():
            logs = "\n".join(path.read_text("utf-8", "replace")[-1000:] for path in self._data.glob("log/*.out"))
            ended = "".join(f", {name} ended" for name in dead()[:1])
            raise CannotRunError(f"{what} did not come up{ended}:\n{logs}")
