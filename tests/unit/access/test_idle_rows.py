"""What of a policy changes nothing."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from ckptd.access.idle_rows import Seen, idle_rows, unseen_identities
from ckptd.access.policy import EACH, NO_POLICY, Limit, Policy, parse

TWO_FLOORS = [{"runs": "v/a", "keep_at_least": 1}, {"runs": "v/*", "keep_at_least": 2}]
TWO_QUOTAS = [{"runs": "v/**", "stored_bytes": 5}, {"runs": "v/a", "stored_bytes": 6}]
GRANT = {"to": "token:a", "runs": "v/**", "role": "save"}
ADMIN = {"to": "token:a", "runs": "**", "role": "admin"}


def policy(**rows) -> Policy:
    return parse({"grant": [GRANT], **rows})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"grant": [GRANT, GRANT]}, "grant 2 gives nothing"),
        ({"grant": [{**GRANT, "role": "read", "runs": "v/x/*"}, GRANT]}, "grant 1 gives nothing"),
        ({"grant": [GRANT, {**GRANT, "role": "manage"}]}, None),
        ({"grant": [GRANT, {**GRANT, "to": ["token:a", "token:b"]}]}, "grant 1 gives nothing"),
        ({"grant": []}, "no [[grant]]"),
        ({"floor": [{"runs": "x/**", "keep_at_least": 1}]}, "floor 1 is about 'x/**'"),
        ({"floor": TWO_FLOORS}, "floor 1 keeps nothing"),
        ({"floor": [{"runs": "v/a", "keep_younger_than_hours": 1}, {"runs": "v/*", "keep_at_least": 2}]}, None),
        ({"limit": [{"to": "*", "saves": 2}, {"to": "token:a", "saves": 3}]}, "limit 2 limits nothing"),
        ({"limit": [{"to": "*", "saves": 2}, {"to": "token:a", "saves": 1}]}, None),
        ({"limit": [{"to": "token:b", "saves": 2}]}, "limit 1 names token:b"),
        ({"limit": [{"to": "token:a", "saves": 0}]}, "begins no save"),
        ({"quota": [{"runs": "v/**", "stored_bytes": 0}]}, "stored_bytes = 0"),
        ({"quota": TWO_QUOTAS}, "quota 2 bounds nothing"),
        ({"quota": [{"runs": "v/**", "stored_bytes": 5}, {"runs": "v/a", "stored_bytes": 4}]}, None),
        ({"grant": [GRANT, ADMIN]}, "grant 1 gives nothing"),
    ],
)  # fmt: skip
def test_a_row_that_changes_nothing_is_named(rows, said):
    found = idle_rows(policy(**rows))
    assert (len(found), said in found[0]) == (1, True) if said else not found


@pytest.mark.parametrize("name", [each.name for each in fields(Limit)])
def test_a_limit_of_nothing_is_told_whatever_it_limits(name):
    assert f"says {name} = 0" in idle_rows(replace(policy(), limits=(((EACH,), Limit(**{name: 0})),)))[0]


def test_without_a_policy_nothing_is_said():
    assert idle_rows(NO_POLICY) == []


def test_identities_that_no_call_can_show_are_named():
    named = parse({"grant": [{**GRANT, "to": ["token:a", "token:b", "cert:c", "uid:7", "uid:0", "loopback"]}]})
    nothing = Seen(
        frozenset({"a"}), frozenset({"a"}), has_certificates=False, users=frozenset({"0"}), has_loopback=False
    )
    said = unseen_identities(named, nothing)
    assert [each.partition(", and")[0].removeprefix("the policy names ") for each in said] == [
        "token:b",
        "token:a, which has expired",
        "cert:c",
        "uid:7",
        "loopback",
    ]
    assert unseen_identities(named, Seen()) == []
