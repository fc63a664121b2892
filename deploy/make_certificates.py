"""Make the certificates of many hosts that are missing: `docker compose up` runs it before coordinator and agents.

    python3 deploy/make_certificates.py /hosts/authority coordinator=/hosts/coordinator agent-a=/hosts/a

The first directory keeps the authority, and its key; no service has it. Each of the others gets a certificate for the
name before it (`server.crt`, `server.key`), and the authority's certificate (`ca.crt`), by which it knows the others.
What is there stays.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ckptd.access.issuing import issue
from ckptd.errors import CkptdError

CA, SERVER = "ca.crt", ("server.crt", "server.key")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the certificates of many hosts that are missing.")
    parser.add_argument("authority", help="the directory of the authority that signs them")
    parser.add_argument(
        "hosts", nargs="+", metavar="NAME=DIR", help="a name by which others call, and where its files go"
    )
    args = parser.parse_args()
    try:
        for host in args.hosts:
            name, _, directory = host.partition("=")
            print(f"certificate of {name}: {ensure(args.authority, name, Path(directory))}")
    except (CkptdError, OSError) as error:
        print(f"the certificates cannot be made: {error}", file=sys.stderr)
        return 1
    return 0


def ensure(authority: str, name: str, directory: Path) -> str:
    """Make one certificate unless it is there, from this authority; return what was found."""
    known = Path(authority) / CA
    trusted = directory / CA
    is_ours = known.exists() and trusted.exists() and trusted.read_bytes() == known.read_bytes()
    if is_ours and all((directory / file).exists() for file in SERVER):
        return "there already"
    for file in SERVER:
        (directory / file).unlink(missing_ok=True)
    issue(authority, (name,), into=str(directory))
    trusted.write_bytes(known.read_bytes())  # last: with it, all is there
    return "made"


if __name__ == "__main__":
    sys.exit(main())
