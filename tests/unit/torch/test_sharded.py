"""DTensors and FSDP2 over real gloo processes, through a daemon, onto other numbers of processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import ckptd  # noqa: E402
from ckptd.torch import load  # noqa: E402
from tests.fakes.served_hosts import served_hosts  # noqa: E402
from tests.unit.client.served import Daemon  # noqa: E402
from tests.unit.torch import sharded_jobs as jobs  # noqa: E402
from tests.unit.torch.gloo import Ranks  # noqa: E402
from tests.unit.torch.versions import has  # noqa: E402


@pytest.fixture(scope="module")
def ranks():
    with Ranks() as ranks:
        yield ranks


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("root"))
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def fsdp(ranks, daemon):
    """What four ranks saved, as whole arrays."""
    if not has(2, 7):
        pytest.skip("this torch's FSDP2 trains on accelerators only")
    saved = ranks.each(4, jobs.save_fsdp, daemon.address)
    return saved[0]


@pytest.fixture(scope="module")
def layouts(ranks, daemon):
    return ranks.each(4, jobs.save_layouts, daemon.address)[0]


@pytest.mark.parametrize("world_size", [2, 3])
def test_fsdp_state_of_four_ranks_is_loaded_by_fewer_bitwise_the_same(ranks, daemon, fsdp, world_size):
    saved = fsdp[1]
    answers = ranks.each(world_size, jobs.load_fsdp, daemon.address)
    for loaded, is_sharded, _ in answers:
        assert is_sharded
        assert loaded.keys() == saved.keys()
        for name, array in saved.items():
            assert np.array_equal(loaded[name], array), name
    # All ranks together read each sharded tensor once.
    sharded = [name for name in saved if name.startswith("model/") or "exp_avg" in name]
    assert sum(read for _, _, read in answers) == sum(saved[name].nbytes for name in sharded)


def test_options_of_a_load_hold_for_sharded_models(ranks, daemon, fsdp):
    saved = {name: array for name, array in fsdp[1].items() if name.startswith("model/")}
    for empty, wide, missing, is_sharded in ranks.each(3, jobs.load_options, daemon.address):
        assert is_sharded
        assert missing == ["net/3.weight", "net/3.bias"]
        for name, array in saved.items():
            assert np.array_equal(empty[name], array), name
            assert wide[name].dtype == np.float64
            assert np.array_equal(wide[name], array), name


def test_fsdp_state_is_loaded_whole_by_one_process_and_was_written_once(daemon, fsdp):
    size_bytes, saved = fsdp
    prefix = str(daemon.root / "runs/fsdp/model.ckpt-1")
    state = load(prefix)
    arrays = jobs.whole(state)
    assert all(np.array_equal(arrays[name], saved[name]) for name in saved)
    bytes_once = sum(array.nbytes for array in saved.values())
    outline = len(ckptd.load_variable(prefix, "_CKPTD_OUTLINE"))  # again, for the ranks other than 0
    assert bytes_once <= size_bytes < bytes_once + outline + 128  # a string brings its length and a checksum
    reader = ckptd.load_checkpoint(prefix)
    assert np.array_equal(reader["model/0.weight"], saved["model/0.weight"])
    optimizer = torch.optim.AdamW(torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Linear(7, 3)).parameters())
    load(prefix, into={"optimizer": optimizer})
    assert np.array_equal(optimizer.state_dict()["state"][0]["exp_avg"], saved["optimizer/state/0/exp_avg"])


def test_every_rank_knows_which_boxes_it_holds_and_together_they_are_all(ranks):
    by_rank = ranks.each(4, jobs.check_parts)
    for layout in jobs.LAYOUTS:
        covered = np.zeros(jobs.FULL.shape, int)
        for boxes in {tuple(one[layout]) for one in by_rank}:  # those that hold the same count once
            for start, shape in boxes:
                covered[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))] += 1
        assert (covered == 1).all(), layout


@pytest.mark.parametrize("shift", [1, 3])
def test_a_tensor_of_any_layout_is_loaded_into_any_other(ranks, daemon, layouts, shift):
    assert ranks.each(4, jobs.load_layouts, daemon.address, shift) == [[]] * 4


def test_layouts_are_one_tensor_each_for_everyone_else_and_replicas_are_written_once(daemon, layouts):
    reader = ckptd.load_checkpoint(daemon.root / "runs/layouts/model.ckpt-1")
    for number, layout in enumerate(jobs.LAYOUTS):
        assert np.array_equal(reader[layout], jobs.FULL.numpy() + number)
    assert reader["empty"].shape == (0, 10)
    assert np.array_equal(reader["few"], jobs.FULL.numpy())
    bytes_once = (len(jobs.LAYOUTS) + 1) * jobs.FULL.numpy().nbytes
    assert bytes_once <= layouts < bytes_once + 1024


def test_addends_and_sharded_tensors_that_do_not_fit_are_refused(ranks, daemon, layouts):
    for said in ranks.each(4, jobs.refusals, daemon.address):
        partial, smaller, wider = said
        assert "'p'" in partial
        assert "redistribute it first" in partial
        assert "rows is stored as float32 [7, 10], and here it is float32 [4, 10]" in smaller
        assert "columns is stored as float32 [7, 10], and here it is float64 [7, 10]" in wider


def test_the_environment_names_the_daemon_and_torch_the_ranks(ranks, daemon, monkeypatch):
    ranks.each(4, jobs.save_where_the_environment_says, daemon.address)
    monkeypatch.setitem(os.environ, "CKPTD_ADDRESS", daemon.address)
    assert torch.equal(load("runs/path")["w"], jobs.FULL)
    with pytest.raises(ckptd.InvalidRequestError, match="below the daemon's root"):
        ckptd.torch.save({"w": jobs.FULL}, daemon.root / "runs/path", 2)


def test_dcp_saves_by_the_agents_of_two_hosts_and_loads_what_stock_loads(ranks, tmp_path):
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), "ab") as hosts:
        addresses = [hosts.agents[host].address for host in "aabb"]
        for step in (1, 2):
            for ours, theirs, held in ranks.each(4, jobs.dcp_by_agents, addresses, str(tmp_path / f"{step}"), step):
                assert ours.keys() == theirs.keys() == held.keys()
                for name, value in held.items():
                    assert ours[name].tobytes() == theirs[name].tobytes() == value.tobytes(), name
            assert len(list((Path(base) / "root/dcp").glob(f"model.ckpt-{step}.data-*"))) == 2  # one a host
            hosts.stop("b")
            hosts.start("b")
