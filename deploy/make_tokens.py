"""Make the daemon's tokens that are missing: what `docker compose up` runs once before the daemon.

    python3 deploy/make_tokens.py /identities/tokens.json operator=/identities/operator.token train=/train-token/token

The first file has hashes only and is what `ckptd serve --tokens` reads; each of the others holds one token itself, for
the program that shows it. A token that is there stays. One whose file was lost or emptied is made anew, and the old one
is worth nothing from then on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ckptd.access import token_file, tokens
from ckptd.errors import CkptdError


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the daemon's tokens that are missing.")
    parser.add_argument("hashes", help="what `ckptd serve --tokens` reads")
    parser.add_argument(
        "holders", nargs="+", metavar="NAME=FILE", help="the holder of a token, and the file to put it in"
    )
    args = parser.parse_args()
    try:
        for holder in args.holders:
            name, _, file = holder.partition("=")
            print(f"token {name}: {ensure(args.hashes, name, Path(file))}")
    except (CkptdError, OSError) as error:
        print(f"the tokens cannot be made: {error}", file=sys.stderr)
        return 1
    return 0


def ensure(hashes: str, name: str, file: Path) -> str:
    """Make one token unless it is there and its hash is known; return what was found."""
    known = [token.name for token in tokens.read(hashes)] if Path(hashes).exists() else []
    if name in known:
        shown = file.read_text().strip() if file.exists() else ""
        found = tokens.read(hashes).find(shown)
        if found is not None and found.name == name:
            return "there already"
        tokens.revoke(hashes, name)
    with token_file.made(str(file), replaces=True) as write:
        write(tokens.create(hashes, name))
    return "made"


if __name__ == "__main__":
    sys.exit(main())
