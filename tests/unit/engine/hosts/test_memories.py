"""What a coordinator knows of the memory of hosts."""

from __future__ import annotations

from ckptd.engine.hosts.memories import InMemory, Memories, Where


def test_what_a_host_says_replaces_what_it_said_before():
    memories = Memories()
    memories.note("a", [InMemory("r", "s1", {0: 10}), InMemory("r", "s2", {0: 20, 3: 1})])
    memories.note("b", [InMemory("r", "s2", {1: 20, 3: 5})])
    found = memories.where("s2", ["a", "b", "c"])
    assert found == Where("s2", {"a": {0: 20, 3: 1}, "b": {1: 20, 3: 5}})
    assert [found.holders_of(shard) for shard in range(4)] == [["a"], ["b"], [], ["b", "a"]]
    assert memories.where("s2", ["a"]).holders == {"a": {0: 20, 3: 1}}  # b is lost
    memories.note("a", [InMemory("r", "s2", {0: 20})])
    assert memories.where("s1", ["a", "b"]) == Where("", {})
    memories.note("a", [])
    memories.forget("b")
    assert memories.where("s2", ["a", "b"]) == Where("", {})
