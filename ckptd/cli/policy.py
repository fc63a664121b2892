"""`ckptd policy`: look at a policy file before a daemon reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ckptd.cli import output

if TYPE_CHECKING:
    from ckptd.access.policy import Policy


@click.group("policy")
def command() -> None:
    """Look at the file that `ckptd serve --policy FILE` reads, and reads again when it changes."""


@command.command("check")
@click.argument("path", metavar="FILE")
@click.option("--run", metavar="RUN", help="Say only what holds for this run.")
@click.option("--tokens", "tokens_path", metavar="FILE", help="The daemon's token file: names that it lacks are told.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(path: str, run: str | None, tokens_path: str | None, as_json: bool) -> None:
    """Read the policy in FILE as a daemon does, and print what each identity may do, and what bounds it.

    Exit code 2 if a daemon would refuse it. What changes nothing, as a row that others make void, is told on stderr.
    """
    from ckptd.access import idle_rows, policy, tokens
    from ckptd.format.names import check_run_name

    if run is not None:
        check_run_name(run)
    found = policy.read(path)
    seen = idle_rows.Seen()
    if tokens_path is not None:
        seen = idle_rows.Seen(*idle_rows.known_tokens(None, tokens.read(tokens_path)))
    complaints = [
        *idle_rows.unseen_identities(found, seen),
        *idle_rows.idle_rows(found),
    ]
    grants, bounds = list(_grants(found, run)), list(_bounds(found, run))
    if as_json:
        output.emit_json(
            {
                "grants": [{"identity": name, "role": role, "runs": runs} for name, role, runs in grants],
                "bounds": [{"row": row, "of": of, "what": what, "amount": amount} for row, of, what, amount in bounds],
                "complaints": complaints,
            }
        )
        return
    if grants:
        output.table(path, ("identity", "role", "runs"), grants)
    else:
        output.tell(f"no identity may do anything{'' if run is None else f' to {run}'}")
    if bounds:
        output.say()
        output.table("Bounds", ("row", "of", "what", "amount"), bounds)
    for complaint in complaints:
        output.note(f"{path}: {complaint}")


def _grants(policy: Policy, run: str | None) -> Iterator[tuple[str, str, str]]:
    """Yield which identity has which role on which runs."""
    from ckptd.access.patterns import matches

    rows = {
        (identity, grant.role, pattern)
        for grant in policy.grants or ()
        for identity in grant.to
        for pattern in grant.runs
        if run is None or matches(pattern, run)
    }
    yield from sorted(rows)


def _bounds(policy: Policy, run: str | None) -> Iterator[tuple[str, str, str, int | float]]:
    """Yield what is kept, and how much there may be at once, one number each."""
    from dataclasses import asdict

    from ckptd.access.patterns import matches

    for runs, floor in policy.floors:
        if run is None or any(matches(each, run) for each in runs):
            of = ", ".join(runs)
            if floor.keep_at_least:
                yield "floor", of, "keep_at_least", floor.keep_at_least
            if floor.keep_younger_than_s:
                yield "floor", of, "keep_younger_than_hours", floor.keep_younger_than_s / 3600
    for to, limit in policy.limits:
        for what, amount in asdict(limit).items():
            if amount is not None:
                yield "limit", ", ".join(to), what, amount
    for quota in policy.quotas:
        if run is None or quota.is_of(run):
            yield "quota", ", ".join(quota.runs), "stored_bytes", quota.stored_bytes
