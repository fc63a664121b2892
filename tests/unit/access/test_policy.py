from __future__ import annotations

import pytest

from ckptd.access import callers, patterns, policy
from ckptd.access.callers import OF_LOOPBACK, of_certificate, of_token, of_user
from ckptd.access.patterns import matches
from ckptd.access.policy import NO_POLICY, Floor, Limit
from ckptd.access.roles import Right
from ckptd.errors import InvalidRequestError, NotFoundError

TEXT = """
[[grant]]
to = ["token:vision", "cert:trainer-1"]
runs = ["vision/**"]
role = "save"

[[grant]]
to = "token:vision"
runs = "shared/*"
role = "read"

[[grant]]
to = "uid:1000"
runs = ["**"]
role = "admin"

[[floor]]
runs = ["vision/**"]
keep_at_least = 3

[[floor]]
runs = "**"
keep_at_least = 1
keep_younger_than_hours = 2
"""
VISION = of_token("vision")


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "policy.toml"

    def write(text):
        path.write_text(text)
        return policy.read(str(path))

    return write


@pytest.mark.parametrize(
    ("pattern", "run", "expected"),
    [
        ("vision", "vision", True),
        ("vision", "vision/a", False),
        ("vision/*", "vision/a", True),
        ("vision/*", "vision/a/b", False),
        ("vision/*", "vision-2/a", False),
        ("vision/**", "vision/a/b", True),
        ("vision/**", "vision", False),
        ("vision/**", "visions/a", False),
        ("v*/a", "vision/a", True),
        ("v*/a", "vision/x/a", False),
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("**/best", "a/b/best", True),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("a/**", "a/line\nbreak", True),
    ],
)
def test_a_pattern_is_of_whole_parts(pattern, run, expected):
    assert matches(pattern, run) is expected


def test_nothing_is_allowed_that_no_row_says(written):
    rules = written(TEXT)
    assert rules.allows(VISION, Right.SAVE, "vision/a")
    assert rules.allows(VISION, Right.READ, "vision/a/best")
    assert rules.allows(VISION, Right.READ, "shared/a")
    assert not rules.allows(VISION, Right.SAVE, "shared/a")
    assert not rules.allows(VISION, Right.READ, "vision")
    assert not rules.allows(VISION, Right.READ, "audio/a")
    assert not rules.allows(VISION, Right.MANAGE, "vision/a")
    assert not rules.allows(of_token("other"), Right.READ, "vision/a")
    assert not rules.allows(OF_LOOPBACK, Right.READ, "vision/a")


def test_a_certificate_is_named_by_any_of_its_names_and_a_token_by_its_kind_too(written):
    rules = written(TEXT)
    assert rules.allows(of_certificate(["host"], ["spare", "trainer-1"]), Right.SAVE, "vision/a")
    assert not rules.allows(of_token("trainer-1"), Right.SAVE, "vision/a")
    assert not rules.allows(of_certificate(["vision"], []), Right.SAVE, "vision/a")


def test_admin_may_do_everything_where_it_is_one(written):
    rules = written(TEXT)
    assert all(rules.allows(of_user(1000), right, "x/y") for right in Right)
    assert rules.allows_everywhere(of_user(1000), Right.ADMIN)
    assert not rules.allows_everywhere(VISION, Right.READ)
    assert rules.allows_anywhere(VISION, Right.SAVE)
    assert not rules.allows_anywhere(VISION, Right.MANAGE)


def test_many_runs_are_judged_as_each_alone(written):
    rules = written(TEXT)
    for caller in (VISION, of_user(1000), OF_LOOPBACK):
        may_read = rules.allowed(caller, Right.READ)
        for run in ("vision/a", "vision", "shared/a", "audio/a"):
            assert may_read(run) is rules.allows(caller, Right.READ, run)


def test_each_floor_that_matches_holds(written):
    rules = written(TEXT)
    assert rules.floor("vision/a") == Floor(3, 7200.0)
    assert rules.floor("audio") == Floor(1, 7200.0)
    assert written("").floor("audio") == Floor()


def test_of_several_limits_the_lowest_is_an_identity_s_own(written):
    rules = written(
        '[[limit]]\nto="*"\nsaves=8\nwatchers=0\n[[limit]]\nto=["token:vision", "uid:7"]\nsaves=2\nruns=3\n'
        '[[quota]]\nruns=["vision/**"]\nstored_bytes=1000'
    )
    assert rules.limit(VISION) == Limit(saves=2, runs=3, watchers=0)
    assert rules.limit(OF_LOOPBACK) == Limit(saves=8, watchers=0)
    assert written("").limit(VISION) == Limit()
    assert [quota.stored_bytes for quota in rules.quotas if quota.is_of("vision/a")] == [1000]
    assert not any(quota.is_of("audio") for quota in rules.quotas)


def test_an_empty_policy_allows_nothing_and_none_at_all_everything(written):
    assert not written("").allows_anywhere(of_user(1000), Right.READ)
    assert all(NO_POLICY.allows(OF_LOOPBACK, right, "any") for right in Right)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[grant]]\nto='token:a'\nruns='a'\nrole='boss'", "grant 1: there are the roles metrics, read, save"),
        ("[[grant]]\nto='a'\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[limit]]\nto='a'\nsaves=1", "limit 1: `to`"),
        ("[[limit]]\nsaves=1", "limit 1: `to`"),
        ("[[limit]]\nto='*'\nsaves=-1", "limit 1: saves is a whole number"),
        ("[[limit]]\nto='*'\nsaves=9223372036854775808", "limit 1: saves is a whole number"),
        ("[[limit]]\nto='*'\nruns=true", "limit 1: runs is a whole number"),
        ("[[limit]]\nto='*'\nstored_bytes=1", "limit 1: there is no 'stored_bytes'"),
        ("[[quota]]\nruns='a'", "quota 1: stored_bytes is a whole number"),
        ("[[quota]]\nruns='a**'\nstored_bytes=1", "quota 1: `runs`"),
        ("[[grant]]\nto='uid:root'\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto='token:'\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto=[]\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto='token:a'\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a'\nruns='a**'\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a'\nruns='../a'\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a'\nruns='/a'\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a'\nrun='a'\nrole='read'", "grant 1: there is no 'run'"),
        ("[[grant]]\nto='token:a'\nruns='a '\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a'\nruns='a/./b'\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a'\nruns='.ckptd/**'\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a'\nruns='e\u0301/**'\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a'\nruns='s3://bucket/**'\nrole='read'", "grant 1: `runs`"),
        ("[[grant]]\nto='token:a '\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto='Token:a'\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto='cert: a'\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto='uid:\u0661'\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto='uid:007'\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto='loopback:a'\nruns='a'\nrole='read'", "grant 1: `to`"),
        ("[[grant]]\nto='token:a'\nruns='a'\nrole='Read'", "grant 1: there are the roles"),
        ("[grant]\nto='token:a'", r"\[\[grant\]\]"),
        ("[[grants]]\nto='token:a'", "there is no 'grants'"),
        ("[[floor]]\nruns='a'\nkeep_at_least=-1", "floor 1: keep_at_least"),
        ("[[floor]]\nruns='a'\nkeep_at_least=true", "floor 1: keep_at_least"),
        ("[[floor]]\nruns='a'\nkeep_younger_than_hours=nan", "floor 1: keep_younger"),
        ("[[floor]]\nruns='a'", "line 1: floor 1: it keeps nothing"),
        ("[[floor]]\nruns='a'\nkeep_at_least=0", "floor 1: it keeps nothing"),
        ("\n[[limit]]\nto='*'\nsaves=1\n\n[[limit]]\nto='*'", "line 6: limit 2: it limits nothing"),
        ("[[grant]]\nto='token:a'\nruns='a'\nrole='read'\n[end]", "has_end = true"),
        ("has_end = 1", "has_end is neither"),
        ("grant", "not TOML"),
    ],
)
def test_a_wrong_row_is_named(written, text, said):
    with pytest.raises(InvalidRequestError, match=said) as refused:
        written(text)
    assert "policy.toml" in str(refused.value)


def test_a_file_that_says_how_it_ends_is_refused_wherever_it_is_cut_off(written):
    rows = "[[grant]]\nto='token:a'\nruns='a'\nrole='read'\n[[limit]]\nto='token:a'\nsaves=80\n"
    whole = f"has_end = true\n{rows}[end]\n# end"
    last = whole.index("[end]") + len("[end]")
    assert written(whole) == written(whole[:last])
    for length in range(whole.index("\n"), last):
        with pytest.raises(InvalidRequestError, match=r"cut off|not TOML|has_end"):
            written(whole[:length])


def test_a_row_is_not_called_by_a_line_that_only_looks_like_its_first(written):
    with pytest.raises(InvalidRequestError, match=r"policy\.toml: grant 1: `runs`"):
        written("[[grant]]\nrole='read'\nto='token:a'\nruns='''\n[[grant]]\n'''")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(NotFoundError, match=r"absent\.toml"):
        policy.read(str(tmp_path / "absent.toml"))


INSIDE = [
    ("vision/**", "vision", True),
    ("vision/**", "vision/a", True),
    ("vision/*", "vision", True),
    ("vision/*", "vision/a", False),
    ("vision/a/b", "vision/a", True),
    ("vision/a/b", "vision/a/b", False),
    ("v*/x", "vision", True),
    ("audio/**", "vision", False),
    ("**", "vision/a", True),
    ("**/best", "vision/a", True),
    ("*/a/**/b", "vision/a/x", True),
    ("vision", "vision", False),
]


@pytest.mark.parametrize(
    ("general", "special", "expected"),
    [
        ("**", "a/**", True),
        ("a/**", "a/*", True),
        ("a/*", "a/**", False),
        ("a/*", "a/b*", True),
        ("a/b*", "a/*", False),
        ("a/**", "a", False),
        ("**/b", "a/**/b", True),
        ("*/**", "**", False),
        ("a*", "a*b", True),
    ],
)
def test_a_pattern_covers_another(general, special, expected):
    assert patterns.covers(general, special) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("vision/**", "visoin/**", False),
        ("vision/**", "**", True),
        ("vision/**", "vision", False),
        ("vision/*/best", "**/best", True),
        ("vision/*/best", "**/worst", False),
        ("v*/a", "vision/*", True),
        ("a*b", "*c", False),
        ("a*", "*c", True),
        ("a/*", "a/b/*", False),
    ],
)
def test_patterns_have_a_run_in_common(one, other, expected):
    assert patterns.overlap(one, other) is patterns.overlap(other, one) is expected


@pytest.mark.parametrize(("pattern", "run", "expected"), INSIDE)
def test_a_pattern_may_have_names_inside_a_run(pattern, run, expected):
    assert patterns.may_match_below(pattern, run) is expected


def test_nobody_makes_a_run_around_names_that_the_policy_gives_to_others(written):
    rules = written("""
[[grant]]
to = "token:vision"
runs = "vision/**"
role = "save"
[[grant]]
to = "token:ops"
runs = ["*", "audio/*"]
role = "save"
[[grant]]
to = "token:root"
runs = "**"
role = "admin"
""")
    vision, ops, root = (callers.of_token(name) for name in ("vision", "ops", "root"))
    assert rules.names_inside(ops, "vision") == "vision/**"
    assert rules.names_inside(root, "vision") == "vision/**"
    assert rules.names_inside(ops, "other") == ""
    assert rules.names_inside(vision, "vision/a") == ""
    assert rules.names_inside(root, "audio/a") == ""
    assert NO_POLICY.names_inside(ops, "vision") == ""


@pytest.mark.parametrize(
    ("hosts", "name", "host", "may"),
    [
        (None, "gpu-7", "any", None),
        ("own", "gpu-7", "gpu-7", True),
        ("own", "gpu-7", "gpu-70", False),
        (["gpu-*", "login"], "agents", "gpu-70", True),
        (["gpu-*", "login"], "agents", "login", True),
        (["gpu-*", "login"], "agents", "login-2", False),
    ],
)
def test_a_row_says_which_hosts_an_identity_may_be_the_agent_of(hosts, name, host, may):
    row = {"to": f"token:{name}", "runs": "**", "role": "agent", **({} if hosts is None else {"hosts": hosts})}
    assert policy.parse({"grant": [row]}).may_attend(callers.of_token(name), host) is may


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"role": "save", "hosts": "own"}, "belongs to the role `agent`"),
        ({"role": "agent", "hosts": []}, "not empty"),
        ({"role": "agent", "hosts": "a/b"}, "names of hosts"),
    ],
)
def test_hosts_that_nothing_can_match_are_refused(row, says):
    with pytest.raises(InvalidRequestError, match=says):
        policy.parse({"grant": [{"to": "token:a", "runs": "**", **row}]})
