"""The policy: which identity has which role on which runs, and what no option of a trainer may undercut.

A TOML file. Once there is one, nothing is allowed that it does not say::

    [[grant]]
    to = ["token:vision", "cert:vision-trainer"]
    runs = ["vision/**"]
    role = "save"

    [[floor]]
    runs = ["vision/**"]
    keep_at_least = 3
    keep_younger_than_hours = 24

    [[limit]]
    to = "*"
    saves = 8
    runs = 50
    watchers = 100
    claimed_bytes = 1_000_000_000_000
    requests_per_s = 200
    bytes_per_s = 2_000_000_000
    bytes_per_s_per_host = 500_000_000

    [[quota]]
    runs = ["vision/**"]
    stored_bytes = 5_000_000_000_000

Several grants may name one identity; it has the rights of all of them. Of several floors that match a run each holds.
A limit is each identity's own that it names, ``*`` names all; a quota is of all runs together that its patterns match.
Of several the lowest holds.

A file that begins with ``has_end = true`` must end with the line ``[end]``: one that was cut off between two rows is
refused then, where it would be another policy. What no row can mean is refused here; what changes nothing is found by
`ckptd.access.idle_rows`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ckptd.access import callers, host_names, tokens
from ckptd.access.callers import Caller
from ckptd.access.opening import opened
from ckptd.access.patterns import check_pattern, matches, may_match_below
from ckptd.access.roles import ROLES, Right
from ckptd.engine.catalog.floor import Floor
from ckptd.errors import InvalidRequestError, NotFoundError, NotPermittedError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_BYTES = 4 << 20
_KINDS = ("grant", "floor", "limit", "quota")
_END_KEYS = ("has_end", "end")
_HEADER = re.compile(rf"[ \t]*\[\[[ \t]*({'|'.join(_KINDS)})[ \t]*\]\]")

EACH = "*"
"""In a limit: every identity, each by itself."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A row of the policy: these identities have this role on these runs.

    `hosts`, of agents: those whose agents they may be, see `host_names`; () for any.
    """

    to: frozenset[str]
    runs: tuple[str, ...]
    role: str
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """How much one identity may have at once; None for as much as there is.

    Attributes:
        saves: under way.
        runs: that it has joined.
        watchers: streams that wait for news.
        claimed_bytes: of its saves under way that have not arrived.
        requests_per_s: calls that it begins, each message of a stream not counted.
        bytes_per_s: that it sends and is sent; more is delayed, and not refused.
        requests_per_s_per_host: as `requests_per_s`, of each of its hosts by itself.
        bytes_per_s_per_host: as `bytes_per_s`, of each of its hosts by itself.
    """

    saves: int | None = None
    runs: int | None = None
    watchers: int | None = None
    claimed_bytes: int | None = None
    requests_per_s: int | None = None
    bytes_per_s: int | None = None
    requests_per_s_per_host: int | None = None
    bytes_per_s_per_host: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """How many bytes may be stored of all runs of these patterns together."""

    runs: tuple[str, ...]
    stored_bytes: int

    def is_of(self, run: str) -> bool:
        """Say whether a run counts."""
        return _matches(self.runs, run)


@dataclass(frozen=True, slots=True)
class Policy:
    """The rows of one file. `grants` None: there is no file, and each identity that is let in may do everything."""

    grants: tuple[Grant, ...] | None = None
    floors: tuple[tuple[tuple[str, ...], Floor], ...] = ()
    limits: tuple[tuple[tuple[str, ...], Limit], ...] = ()
    quotas: tuple[Quota, ...] = ()
    lines: Mapping[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    def where(self, kind: str, index: int) -> str:
        """Return how a row is called in messages; `kind` as in the file, `index` from 0."""
        return _where(kind, index, self.lines)

    def allows(self, caller: Caller, right: Right, run: str) -> bool:
        """Say whether `caller` has a right on one run."""
        return any(_matches(runs, run) for runs in self._runs_of(caller, right))

    def allowed(self, caller: Caller, right: Right) -> Callable[[str], bool]:
        """Return what `allows` says of one run after the other: for thousands of runs, in milliseconds."""
        patterns = [pattern for runs in self._runs_of(caller, right) for pattern in runs]
        return lambda run: _matches(patterns, run)

    def allows_anywhere(self, caller: Caller, right: Right) -> bool:
        """Say whether `caller` has a right on any run."""
        return any(True for _ in self._runs_of(caller, right))

    def allows_everywhere(self, caller: Caller, right: Right) -> bool:
        """Say whether `caller` has a right on every run, and so on the daemon as a whole."""
        return any("**" in runs for runs in self._runs_of(caller, right))

    def may_attend(self, caller: Caller, host: str) -> bool | None:
        """Say whether `caller` may be the agent of a host; None where no row of it names hosts: then of any."""
        names = caller.names
        rows = [row.hosts for row in self.grants or () if Right.AGENT in ROLES[row.role] and row.to & set(names)]
        if not any(rows):
            return None
        return any(not hosts or host_names.include(hosts, caller, host) for hosts in rows)

    def names_inside(self, caller: Caller, run: str) -> str:
        """Return a pattern of names inside `run` to which others may save, without the right to save to `run`; or "".

        Runs do not nest, so a run of `caller` there would keep them from their own names.
        """
        for grant in self.grants or ():
            if Right.SAVE in ROLES[grant.role] and grant.to.isdisjoint(caller.names):
                inside = (pattern for pattern in grant.runs if may_match_below(pattern, run))
                if not _matches(grant.runs, run) and (found := next(inside, "")):
                    return found
        return ""

    def names_of(self, kind: str) -> set[str]:
        """Return the names of one kind of identity that rows are about."""
        rows = (*(grant.to for grant in self.grants or ()), *(to for to, _ in self.limits))
        named = (name.partition(":") for row in rows for name in row)
        return {rest for each, _, rest in named if each == kind}

    def floor(self, run: str) -> Floor:
        """Return what has to be kept in `run`."""
        ours = [floor for runs, floor in self.floors if _matches(runs, run)]
        return Floor(
            max((floor.keep_at_least for floor in ours), default=0),
            max((floor.keep_younger_than_s for floor in ours), default=0.0),
        )

    def limit(self, caller: Caller) -> Limit:
        """Return how much `caller` may have at once."""
        named = {EACH, *caller.names}
        ours = [limit for to, limit in self.limits if not named.isdisjoint(to)]
        return Limit(**{name: _lowest(getattr(limit, name) for limit in ours) for name in _LIMITS})

    def _runs_of(self, caller: Caller, right: Right) -> Iterable[tuple[str, ...]]:
        if self.grants is None:
            yield ("**",)
            return
        names = caller.names
        for grant in self.grants:
            if right in ROLES[grant.role] and not grant.to.isdisjoint(names):
                yield grant.runs


_LIMITS = tuple(each.name for each in fields(Limit))
_RATES_OF_BYTES = ("bytes_per_s", "bytes_per_s_per_host")
_LEAST_BYTES_PER_S = 1 << 20  # less than half a message a second: no save would end within its time limit

NO_POLICY = Policy()


def read(path: str) -> Policy:
    """Read a policy file.

    Raises:
        NotFoundError: there is none.
        NotPermittedError: it cannot be read.
        InvalidRequestError: it says what we do not know; the message names the row.
    """
    try:
        with opened(path) as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError("there is no such policy file", key=path) from error
    except OSError as error:
        raise NotPermittedError(f"the policy file cannot be read: {error.strerror}", key=path) from error
    if len(data) > _MOST_BYTES:
        raise InvalidRequestError("the policy file is too large", key=path, expected=f"at most {_MOST_BYTES} bytes")
    try:
        text = data.decode("utf-8")
        content = tomllib.loads(text)
        _check_end(content, text)
        return parse(content, _lines_of_rows(text))
    except InvalidRequestError as error:
        error.key = path
        raise
    except (ValueError, RecursionError) as error:  # TOML's errors and undecodable text
        raise InvalidRequestError(f"the policy file is not TOML: {error}", key=path) from error


def parse(content: Mapping[str, Any], lines: Mapping[str, tuple[int, ...]] | None = None) -> Policy:
    """Return the policy that a file's content says; `InvalidRequestError` names the row that is wrong.

    `lines`: for each kind of rows the lines of the file where they begin.
    """
    _check_keys(content, {*_KINDS, *_END_KEYS}, "the policy")
    found = {kind: each for kind, each in (lines or {}).items() if len(each) == len(content.get(kind, ()))}
    grants = [_grant(row, where) for where, row in _rows(content, "grant", found)]
    floors = [_floor(row, where) for where, row in _rows(content, "floor", found)]
    limits = [_limit(row, where) for where, row in _rows(content, "limit", found)]
    quotas = [_quota(row, where) for where, row in _rows(content, "quota", found)]
    return Policy(tuple(grants), tuple(floors), tuple(limits), tuple(quotas), found)


def _check_end(content: Mapping[str, Any], text: str) -> None:
    """Refuse a file that was cut off, as far as it says how it ends."""
    has_end, end = content.get("has_end", False), content.get("end")
    if not isinstance(has_end, bool):
        raise InvalidRequestError("has_end is neither true nor false", actual=str(has_end)[:100])
    if end is not None and (end != {} or not has_end):
        raise InvalidRequestError(
            "[end] is the last line of a file that begins with has_end = true, with nothing in it"
        )
    if has_end and (end is None or _last_line(text) != "[end]"):
        raise InvalidRequestError(
            "it begins with has_end = true, and its last line is not [end]: it was cut off, or is not written yet",
            actual=_last_line(text)[:100],
        )


def _last_line(text: str) -> str:
    lines = (line.strip() for line in reversed(text.split("\n")))
    return next((line for line in lines if line and not line.startswith("#")), "")


def _lines_of_rows(text: str) -> dict[str, tuple[int, ...]]:
    """Return where rows begin. That may be wrong where texts of several lines look like rows: then their number is."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            found.setdefault(header[1], []).append(number)
    return {kind: tuple(numbers) for kind, numbers in found.items()}


def _where(kind: str, index: int, lines: Mapping[str, tuple[int, ...]]) -> str:
    return f"{f'line {lines[kind][index]}: ' if kind in lines else ''}{kind} {index + 1}"


def _rows(
    content: Mapping[str, Any], kind: str, lines: Mapping[str, tuple[int, ...]]
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    rows = content.get(kind, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidRequestError(f"rows of the policy are written as [[{kind}]]")
    return [(_where(kind, index, lines), row) for index, row in enumerate(rows)]


def _grant(row: Mapping[str, Any], where: str) -> Grant:
    _check_keys(row, {"to", "runs", "role", "hosts"}, where)
    to = _identities(row, where)
    role = row.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidRequestError(f"{where}: there are the roles {', '.join(ROLES)}", actual=str(role)[:100])
    return Grant(frozenset(to), _patterns(row, where), role, _hosts(row, role, where))


def _hosts(row: Mapping[str, Any], role: str, where: str) -> tuple[str, ...]:
    if "hosts" not in row:
        return ()
    if role != "agent":
        raise InvalidRequestError(f"{where}: `hosts` belongs to the role `agent`", actual=role)
    hosts = _texts(row, "hosts", where)
    host_names.check(hosts, where)
    return hosts


def _identities(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    to = _texts(row, "to", where)
    for name in to:
        if not _is_identity(name):
            raise InvalidRequestError(
                f"{where}: `to` names identities: token:NAME, cert:NAME, uid:NUMBER or loopback", actual=name[:100]
            )
    return to


def _is_identity(name: str) -> bool:
    """Say whether a caller can have this name: a row that never matches is a typing error that no one would see."""
    kind, _, rest = name.partition(":")
    match kind:
        case callers.TOKEN:
            return tokens.is_name(rest)
        case callers.CERTIFICATE:
            return rest == rest.strip() != ""
        case callers.USER:
            return re.fullmatch(r"0|[1-9][0-9]{0,9}", rest) is not None
        case _:
            return name == callers.LOOPBACK


def _limit(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], Limit]:
    _check_keys(row, {"to", *_LIMITS}, where)
    to = (EACH,) if row.get("to") == EACH else _identities(row, where)
    if row.keys().isdisjoint(_LIMITS):
        raise InvalidRequestError(f"{where}: it limits nothing: pass one of {', '.join(_LIMITS)}")
    limit = {name: _amount(row, name, where) for name in _LIMITS if name in row}
    for name in _RATES_OF_BYTES:
        if limit.get(name, _LEAST_BYTES_PER_S) < _LEAST_BYTES_PER_S:
            raise InvalidRequestError(f"{where}: {name} is {_LEAST_BYTES_PER_S} or more", actual=limit[name])
    return to, Limit(**limit)


def _quota(row: Mapping[str, Any], where: str) -> Quota:
    _check_keys(row, {"runs", "stored_bytes"}, where)
    return Quota(_patterns(row, where), _amount(row, "stored_bytes", where))


def _amount(row: Mapping[str, Any], name: str, where: str) -> int:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise InvalidRequestError(f"{where}: {name} is a whole number, 0 or more", actual=repr(value)[:100])
    return value


def _lowest(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _floor(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], Floor]:
    _check_keys(row, {"runs", "keep_at_least", "keep_younger_than_hours"}, where)
    keep, hours = row.get("keep_at_least", 0), row.get("keep_younger_than_hours", 0)
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
        raise InvalidRequestError(f"{where}: keep_at_least is a number of checkpoints", actual=repr(keep)[:100])
    if isinstance(hours, bool) or not isinstance(hours, int | float) or not (math.isfinite(hours) and hours >= 0):
        raise InvalidRequestError(f"{where}: keep_younger_than_hours is a number of hours", actual=repr(hours)[:100])
    if not keep and not hours:
        raise InvalidRequestError(f"{where}: it keeps nothing: pass keep_at_least, keep_younger_than_hours, or both")
    return _patterns(row, where), Floor(keep, hours * 3600.0)


def _patterns(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    patterns = _texts(row, "runs", where)
    for pattern in patterns:
        check_pattern(pattern, f"{where}: `runs`")
    return patterns


def _texts(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = row.get(name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError(
            f"{where}: `{name}` is a text or a list of texts, and not empty", actual=str(value)[:100]
        )
    return tuple(texts)


def _check_keys(row: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(row) - known)
    if unknown:
        raise InvalidRequestError(f"{where}: there is no {unknown[0]!r}; there are: {', '.join(sorted(known))}")


def _matches(patterns: Iterable[str], run: str) -> bool:
    return any(matches(pattern, run) for pattern in patterns)
