"""Which hosts one answer to `Status` tells of, and what is awaited from each."""

from __future__ import annotations

from ckptd.engine.hosts.views import HostsView, HostView, PartView
from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RunView, SaveView
from ckptd.service import hosts_page


def host(name, ranks=(), parts=(), run="r"):
    here = ((run, tuple(ranks)),) if ranks else ()
    return HostView(name, (f"{name}:7070",), 100.0, 1.0, False, None, here, tuple(parts))


def view(*hosts):
    return HostsView(3, 15.0, "", hosts)


def run_that_declares(step, needed, name="r"):
    save = SaveView(SaveRef(name, 1, step), Phase.DECLARING, 0, 0, 1.0, (), tuple(needed), frozenset())
    return RunView(name, 1, 4, (0, 1, 2, 3), (save,), None, 0, "")


def fill(of, runs=(), after="", may_see=lambda run: True, sees_all=True):
    return hosts_page.fill(of, runs, after, may_see=may_see, sees_all=sees_all)


def test_a_host_is_awaited_for_those_of_its_ranks_that_have_not_declared():
    declared = PartView("r", 7, "", (0, 1))
    page = fill(view(host("a", (0, 1), [declared]), host("b", (2, 3))), [run_that_declares(7, (0, 1, 3))])
    assert [(each.host, [(part.declared, list(part.ranks)) for part in each.parts]) for each in page.hosts] == [
        ("a", [(True, [0, 1])]),
        ("b", [(False, [3])]),
    ]
    assert [part.step for part in page.hosts[1].parts] == [7]


def test_a_save_without_a_step_stays_one():
    page = fill(view(host("b", (2, 3))), [run_that_declares(None, (2,))])
    (part,) = page.hosts[0].parts
    assert not part.HasField("step")


def test_only_runs_that_the_caller_may_read_are_told_and_hosts_without_such_runs_are_not():
    of = view(host("a", (0,), run="mine"), host("b", (0,), [PartView("theirs", 1, "s", (0,))], run="theirs"), host("c"))
    seen = fill(of, may_see=lambda run: run == "mine", sees_all=False)
    assert [each.host for each in seen.hosts] == ["a"]
    everything = fill(of)
    assert [each.host for each in everything.hosts] == ["a", "b", "c"]


def test_more_hosts_than_one_message_holds_come_page_by_page():
    of = view(*(host(f"h{number:03}" + "x" * (hosts_page.PAGE_BYTES // 4), (number,)) for number in range(20)))
    names, after = [], ""
    while True:
        page = fill(of, after=after)
        assert page.hosts
        names += [each.host[:4] for each in page.hosts]
        assert page.ByteSize() < 2 * hosts_page.PAGE_BYTES
        if not page.next_after:
            break
        after = page.next_after
    assert names == [f"h{number:03}" for number in range(20)]
