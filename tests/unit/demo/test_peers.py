from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

from ckptd.demo.peers import PeerLostError, Peers, in_rank_order


def connected(world_size):
    ends = [{} for _ in range(world_size)]
    for low in range(world_size):
        for high in range(low + 1, world_size):
            ends[low][high], ends[high][low] = socket.socketpair()
    return [Peers(rank, ends[rank], timeout_s=60) for rank in range(world_size)]


def everywhere(peers, action):
    """Run `action(peers)` on a thread per worker; return results or errors by rank."""
    found = {}

    def run(one):
        try:
            found[one.rank] = action(one)
        except PeerLostError as e:
            found[one.rank] = e

    threads = [threading.Thread(target=run, args=(one,)) for one in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_everyone_gets_the_same_bits_of_a_sum_larger_than_any_socket_buffer(world_size):
    peers = connected(world_size)
    random = np.random.default_rng(1)
    arrays = [random.standard_normal(300_000).astype(np.float32) for _ in range(world_size)]
    found = everywhere(peers, lambda one: one.sum(arrays[one.rank]))
    expected = arrays[0].copy()
    for array in arrays[1:]:
        expected += array
    for rank in range(world_size):
        assert found[rank].tobytes() == expected.tobytes()
    for one in peers:
        one.close()


def test_adding_up_goes_by_rank_and_not_by_arrival():
    parts = {2: np.float32([1e8]), 0: np.float32([1.0]), 1: np.float32([-1e8])}
    assert in_rank_order(parts).tolist() == [float((np.float32(1.0) + np.float32(-1e8)) + np.float32(1e8))]
    assert in_rank_order(dict(reversed(parts.items()))).tolist() == in_rank_order(parts).tolist()


def test_a_dead_worker_is_noticed_by_all_others_at_once():
    peers = connected(3)
    peers[1].close()

    def exchange(one):
        try:
            return one.sum(np.zeros(10, np.float32))
        except PeerLostError:
            one.close()  # as a worker does, so that the next one hears of it
            raise

    found = everywhere([peers[0], peers[2]], exchange)
    assert all(isinstance(error, PeerLostError) for error in found.values())
    assert found[0].rank == 1
