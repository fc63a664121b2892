"""`python -m ckptd` is the `ckptd` command."""

from __future__ import annotations

from ckptd.cli.main import main

if __name__ == "__main__":
    main()
