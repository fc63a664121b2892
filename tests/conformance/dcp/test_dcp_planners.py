"""What DCP's own tests of planners and of errors ask, on our storage."""

from __future__ import annotations

import collections
import inspect
import io

import numpy as np
import pytest

import ckptd
from ckptd.errors import ConflictError, CorruptionError, InvalidRequestError

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint import CheckpointException, DefaultLoadPlanner, DefaultSavePlanner  # noqa: E402
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import Shard, distribute_tensor  # noqa: E402

from ckptd.torch import CkptdStorageReader, CkptdStorageWriter, close_all  # noqa: E402
from ckptd.torch import save as save_natively  # noqa: E402
from tests.unit.torch.differing_jobs import heard  # noqa: E402
from tests.unit.torch.versions import has  # noqa: E402

UNCOORDINATED = "use_collectives" in inspect.signature(dcp.save).parameters
NEEDS_UNCOORDINATED = pytest.mark.skipif(not UNCOORDINATED, reason="this torch knows no use_collectives")
CAN_BE_ALONE = "no_dist" in inspect.signature(dcp.save).parameters
CACHES_PLANS = "enable_plan_caching" in inspect.signature(DefaultSavePlanner).parameters

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is:UserWarning")


@pytest.fixture
def at(tmp_path):
    """The prefix of a checkpoint in a directory of its own."""
    path = str(tmp_path / "runs" / "state-5")
    yield path
    CkptdStorageWriter(path).close()


def save(state, at, planner=None, **options):
    return dcp.save(state, checkpoint_id=at, storage_writer=CkptdStorageWriter(**options), planner=planner)


def load(state, at, planner=None):
    dcp.load(state, checkpoint_id=at, storage_reader=CkptdStorageReader(), planner=planner)
    return state


def nested():
    return {
        "model": {"layer": {"weight": torch.arange(6.0).reshape(2, 3), "steps": [torch.ones(2), torch.zeros(3)]}},
        "epoch": 7,
        "lr": 0.125,
        "done": False,
        "name": "Größe",
        "raw": b"\x00\xff",
        "nothing": None,
        "betas": (0.9, 0.999),
        "history": [1, "two", 3.0, None],
        "numpy": np.arange(3, dtype=np.int16),
        "numpy scalar": np.float32(0.5),
        "stream": io.BytesIO(b"bytes of somebody's"),
    }


def blank(value):
    """The same state with nothing in it yet; DCP keeps tuples whole."""
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, -1)
    if isinstance(value, dict):
        return {key: blank(one) for key, one in value.items()}
    if isinstance(value, list) and any(isinstance(one, (torch.Tensor, dict)) for one in value):
        return [blank(one) for one in value]
    return "not loaded"


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, io.BytesIO):
        return one.getvalue() == other.getvalue()
    return type(one) is type(other) and one == other


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch):
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)


def test_nested_state_with_values_of_every_kind_comes_back_as_it_was(at):
    save(nested(), at)
    assert same(load(blank(nested()), at), nested())


def test_strings_that_end_in_nul_come_back_as_from_dcps_own_storage(at, tmp_path):
    inner = io.BytesIO()
    torch.save([1.0, 2.0], inner)  # ends in NULs
    state = {"bytes": b"abc\0\0", "text": "abc\0\0", "nul": b"\0", "listed": [b"a\0", "b\0"], "stream": inner}
    save(state, at)
    dcp.save(state, checkpoint_id=tmp_path / "stock")
    ours, stock = load(dict.fromkeys(state), at), dict.fromkeys(state)
    dcp.load(stock, checkpoint_id=tmp_path / "stock")
    assert same(ours, stock)
    assert same(ours, state)
    assert torch.load(ours["stream"]) == [1.0, 2.0]  # ours is at its beginning, DCP's where it was left
    assert stock["stream"].tell() == len(inner.getvalue())


def test_state_is_stored_under_its_qualified_names_for_every_reader(at):
    save(nested(), at)
    reader = ckptd.load_checkpoint(at)
    assert {"model.layer.weight", "model.layer.steps.0", "epoch", "lr", "name", "raw", "numpy"} < set(reader)
    assert reader["epoch"] == 7
    assert reader["name"] == "Größe".encode()
    assert np.array_equal(reader["model.layer.weight"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_state_that_is_not_flattened_has_its_top_level_names_only(at):
    state = {"w": torch.arange(4.0), "settings": {"depth": 3, "names": ["a", "b"]}}
    save(state, at, DefaultSavePlanner(flatten_state_dict=False))
    empty = {"w": torch.zeros(4), "settings": None}
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    assert same(load(empty, at, planner), state)


def test_whatever_a_checkpoint_holds_can_be_asked_for_by_its_keys_alone(at):
    save(nested(), at)
    reader = CkptdStorageReader(at)
    if has(2, 7):  # before, no keys meant nothing
        assert same(_load_state_dict_from_keys(None, storage_reader=reader), nested())
    assert _load_state_dict_from_keys({"model.layer"}, storage_reader=reader).keys() == {"model"}


def test_metadata_is_made_from_the_index(at):
    save(nested(), at)
    metadata = CkptdStorageReader(at).read_metadata()
    weight = metadata.state_dict_metadata["model.layer.weight"]
    assert (tuple(weight.size), weight.properties.dtype) == ((2, 3), torch.float32)
    assert [(tuple(one.offsets), tuple(one.sizes)) for one in weight.chunks] == [((0, 0), (2, 3))]
    assert metadata.planner_data["model.layer.steps.0"] == ("model", "layer", "steps", 0)
    assert not [name for name in metadata.state_dict_metadata if name.startswith("_CKPTD")]


def test_part_of_the_state_may_be_loaded(at):
    save(nested(), at)
    assert load({"epoch": 0}, at) == {"epoch": 7}


def test_a_key_that_is_missing_is_told_unless_partial_loads_are_allowed(at):
    save({"w": torch.ones(3)}, at)
    with pytest.raises(CheckpointException, match=r"Missing key in checkpoint state_dict: b\."):
        load({"w": torch.zeros(3), "b": torch.zeros(1)}, at)
    state = load({"w": torch.zeros(3), "b": torch.zeros(1)}, at, DefaultLoadPlanner(allow_partial_load=True))
    assert same(state, {"w": torch.ones(3), "b": torch.zeros(1)})


def test_another_shape_is_refused_with_both(at):
    save({"w": torch.ones(3)}, at)
    with pytest.raises(CheckpointException, match=r"Size mismatch between saved torch.Size\(\[3\]\) and current"):
        load({"w": torch.zeros(2)}, at)


def test_a_tensor_is_not_loaded_into_a_number(at):
    save({"w": torch.ones(3)}, at)
    with pytest.raises(CheckpointException, match="Invalid checkpoint metadata for w"):
        load({"w": 1}, at)


def test_a_tensor_of_another_dtype_is_filled_as_pytorch_converts(at):
    save({"w": torch.tensor([1.5, 2.25])}, at)
    assert same(load({"w": torch.zeros(2, dtype=torch.bfloat16)}, at)["w"], torch.tensor([1.5, 2.25]).bfloat16())


def test_views_are_saved_and_filled_where_they_are(at):
    square = torch.arange(16.0).reshape(4, 4)
    save({"turned": square.T, "part": square[1:3, ::2], "scalar": torch.tensor(3)}, at)
    target = torch.zeros(4, 4)
    state = {"turned": torch.zeros(4, 4), "part": target[::2, 1::2], "scalar": torch.tensor(0)}
    load(state, at)
    assert same(state, {"turned": square.T.contiguous(), "part": square[1:3, ::2], "scalar": torch.tensor(3)})
    assert same(target[::2, 1::2], square[1:3, ::2])
    assert target.sum() == square[1:3, ::2].sum()


def test_a_checkpoint_that_is_not_there_is_told(at, tmp_path):
    with pytest.raises(CheckpointException, match="Failed to find any matching files"):
        load({"w": torch.ones(1)}, at)
    with pytest.raises(ckptd.NotFoundError):
        CkptdStorageReader(at).read_metadata()


@pytest.mark.parametrize("value", [object(), collections.Counter.update], ids=["object", "function"])
def test_what_would_need_pickle_is_refused_by_its_name(at, value):
    with pytest.raises(CheckpointException, match="can't be saved without pickle") as caught:
        save({"a": {"b": [value]}}, at)
    (error, _) = caught.value.failures[0]
    assert isinstance(error, InvalidRequestError)
    assert error.key == "a.b/0"
    assert not ckptd.checkpoint_exists(at)


class Renaming(DefaultSavePlanner):
    """Saves everything under longer names, as PyTorch's documentation suggests."""

    def set_up_planner(self, state_dict, storage_meta=None, is_coordinator=False):
        super().set_up_planner({f"foo_{key}": one for key, one in state_dict.items()}, storage_meta, is_coordinator)


class Halving(DefaultSavePlanner):
    """Saves tensors in half precision."""

    def create_local_plan(self):
        plan = super().create_local_plan()
        for item in plan.items:
            if item.tensor_data is not None:
                item.tensor_data.properties.dtype = torch.float16
        return plan

    def resolve_data(self, write_item):
        data = super().resolve_data(write_item)
        return data.half() if isinstance(data, torch.Tensor) else data


class Sealing(DefaultSavePlanner):
    """Hands out bytes that only `Opening` understands."""

    def transform_object(self, write_item, object):
        return io.BytesIO(f"sealed {object}".encode()) if write_item.index.fqn == "secret" else object


class Opening(DefaultLoadPlanner):
    def load_bytes(self, read_item, value):
        self.original_state_dict[read_item.dest_index.fqn] = value.getvalue().decode().removeprefix("sealed ")


def test_planners_may_rename_and_convert_what_is_saved(at):
    save({"w": torch.ones(2)}, at, Renaming())
    assert same(load({"foo_w": torch.zeros(2)}, at), {"foo_w": torch.ones(2)})
    save({"w": torch.full((2,), 1.5), "n": [3]}, at, Halving())
    assert ckptd.load_checkpoint(at)["w"].dtype == np.float16
    assert same(load({"w": torch.zeros(2), "n": None}, at), {"w": torch.full((2,), 1.5), "n": [3]})


def test_bytes_of_a_planner_of_ones_own_come_back_to_its_like_and_are_never_unpickled(at):
    save({"secret": "word"}, at, Sealing())
    assert load({"secret": None}, at, Opening()) == {"secret": "word"}
    with pytest.raises(CheckpointException, match="only the planner that saved this can read it"):
        load({"secret": None}, at)


def test_a_step_is_overwritten_unless_that_is_refused(at):
    save({"w": torch.ones(2)}, at)
    save({"w": torch.full((2,), 2.0)}, at)
    assert same(load({"w": torch.zeros(2)}, at)["w"], torch.full((2,), 2.0))
    with pytest.raises(CheckpointException) as caught:
        save({"w": torch.zeros(2)}, at, overwrite=False)
    assert isinstance(caught.value.failures[0][0], ConflictError)


def test_damage_is_told_as_such(at):
    save({"w": torch.ones(1000)}, at)
    with open(f"{at}.data-00000-of-00001", "r+b") as shard:
        shard.seek(2000)
        shard.write(b"damage")
    with pytest.raises(CheckpointException) as caught:
        load({"w": torch.zeros(1000)}, at)
    assert isinstance(caught.value.failures[0][0], CorruptionError)


def test_state_of_nothing_is_saved_and_loaded(at):
    save({}, at)
    assert load({}, at) == {}


def test_everything_is_kept_unless_told_otherwise(tmp_path):
    for kept, options in (([0, 1, 2, 3, 4, 5, 6], {}), ([5, 6], {"max_to_keep": 2})):
        run = f"runs/{len(kept)}"
        with ckptd.Checkpointer(tmp_path, run) as looker:
            for step in range(7):
                writer = CkptdStorageWriter(tmp_path, run=run, step=step, **options)
                dcp.save({"w": torch.ones(1)}, storage_writer=writer)
            looker.settle()  # what `max_to_keep` deletes goes after a save
            assert [one.step for one in looker.checkpoints()] == kept
        writer.close()


def test_what_others_saved_is_loaded(tmp_path):
    ckptd.save_checkpoint(tmp_path / "numpy-1", {"w": np.arange(4.0), "layer/b": np.float32(2), "text": "words"})
    state = {"w": torch.zeros(4, dtype=torch.float64), "layer/b": torch.zeros(()), "text": None}
    load(state, str(tmp_path / "numpy-1"))
    assert same(state["w"], torch.arange(4.0, dtype=torch.float64))
    assert (state["layer/b"].item(), state["text"]) == (2, b"words")


def test_what_ckptd_saved_of_nested_state_is_loaded_by_the_names_that_dcp_gives_it(tmp_path):
    state = {
        "model": torch.nn.Linear(3, 2).state_dict(),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.5, "params": [0, 1]}]},
        "epoch": 7,
        "losses": [0.5, 0.25],
        "pair": (1, torch.ones(2)),
    }
    save_natively(state, tmp_path / "run", 1).result(60.0)
    close_all()
    loaded = load(blank(state), str(tmp_path / "run" / "model.ckpt-1"))
    assert same({**loaded, "model": dict(loaded["model"])}, {**state, "model": dict(state["model"])})
    reader = CkptdStorageReader(tmp_path / "run")
    assert _load_state_dict_from_keys({"epoch", "losses"}, storage_reader=reader) == {"epoch": 7, "losses": [0.5, 0.25]}


# Several ranks.


def save_replicated(address, run, options):
    state = {"large": torch.arange(1000.0), "own": {f"of {dist.get_rank()}": [dist.get_rank()]}, "step": 4}
    planner = DefaultSavePlanner(**options)
    for step in (1, 2, 3):
        state["large"] += 1
        writer = CkptdStorageWriter(address, run=run, step=step)
        dcp.save(state, storage_writer=writer, planner=planner)
    size = writer.checkpoint.size_bytes
    loaded = {"large": torch.zeros(1000), "own": {f"of {rank}": None for rank in range(dist.get_world_size())}}
    dcp.load(loaded, storage_reader=CkptdStorageReader(address, run=run))
    assert torch.equal(loaded["large"], torch.arange(1000.0) + 3)
    assert loaded["own"] == {f"of {rank}": [rank] for rank in range(dist.get_world_size())}
    return size


PLANNERS = [{}, {"dedup_save_to_lowest_rank": True}, *([{"enable_plan_caching": True}] if CACHES_PLANS else [])]


@pytest.mark.parametrize("options", PLANNERS, ids=str)
def test_replicated_tensors_are_stored_once_and_values_of_every_rank_are_kept(daemon, pool, run, options):
    sizes = pool.run(save_replicated, 3, daemon.address, run, options)
    assert max(sizes) < 2 * 4000


def save_on_the_lowest_rank(address, run):
    planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    dcp.save({"w": torch.ones(5)}, storage_writer=CkptdStorageWriter(address, run=run, step=1), planner=planner)


def test_ranks_that_have_nothing_to_store_take_part(daemon, pool, run):
    pool.run(save_on_the_lowest_rank, 3, daemon.address, run)
    assert (ckptd.load_checkpoint(daemon.root / run)["w"] == 1).all()


def save_uncoordinated(address, run):
    mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
    state = {"w": distribute_tensor(torch.arange(10.0), mesh, [Shard(0)]), f"n{rank}": [rank], "step": 7}
    dcp.save(state, storage_writer=CkptdStorageWriter(address, run=run, step=1), use_collectives=False)
    loaded = {"w": torch.zeros(10), "n0": None, "n1": None}
    dcp.load(loaded, storage_reader=CkptdStorageReader(address, run=run))
    assert torch.equal(loaded["w"], torch.arange(10.0))
    assert (loaded["n0"], loaded["n1"]) == ([0], [1])


def differing(rank):
    return {"n": rank, "text": f"of {rank}", "listed": [rank, None], "same": 7}


def save_what_differs(address, run, directory):
    """Save values that differ, with collectives and without, with ours and with DCP's; return what each loads."""
    found = {}
    for way in ("together", "uncoordinated"):
        options = {} if way == "together" else {"use_collectives": False}
        theirs = dcp.FileSystemWriter(f"{directory}/{way}"), dcp.FileSystemReader(f"{directory}/{way}")
        ours = (
            CkptdStorageWriter(address, run=f"{run}/{way}", step=1),
            CkptdStorageReader(address, run=f"{run}/{way}"),
        )
        for writer, reader in (theirs, ours):
            dcp.save(differing(dist.get_rank()), storage_writer=writer, **options)
            dist.barrier()
            loaded = dict.fromkeys(differing(0))
            dcp.load(loaded, storage_reader=reader)
            found.setdefault(way, []).append(loaded)
    return found


def load_what_differs(address, run):
    loaded = dict.fromkeys(differing(0))
    dcp.load(loaded, storage_reader=CkptdStorageReader(address, run=f"{run}/uncoordinated"))
    return loaded


@NEEDS_UNCOORDINATED
def test_values_that_differ_between_ranks_are_one_ranks_or_each_ranks_as_in_dcps_own_storage(
    daemon, pool, run, tmp_path
):
    for rank, found in enumerate(pool.run(save_what_differs, 2, daemon.address, run, str(tmp_path))):
        for theirs, ours in found.values():
            assert same(theirs, ours)
        assert same(found["uncoordinated"][1], differing(rank))
    # A rank that did not save gets the lowest one's.
    assert [one["n"] for one in pool.run(load_what_differs, 3, daemon.address, run)] == [0, 1, 0]


def save_heard(address, run, options):
    """Save values and tensors that differ; return what was said."""
    rank = dist.get_rank()
    differ = {"tensor": torch.full((3,), float(rank)), "number": torch.tensor(rank), "nested": {"t": torch.ones(1)}}
    writer = CkptdStorageWriter(address, run=run, step=1, replicas=options.pop("replicas", "warn"))
    with heard() as lines:
        try:
            dcp.save({**differing(rank), **differ}, storage_writer=writer, **options)
        except CheckpointException as error:
            lines += map(str, error.failures.values())
        except InvalidRequestError as error:  # without collectives nobody wraps it
            lines.append(str(error))
        finally:
            writer.close()
    return "\n".join(lines)


TOLD_OF_VALUES = (
    "'n' is 0 on rank 0, 1 on rank 1",
    "'text' is 'of 0' on rank 0, 'of 1' on rank 1",
    "'listed' is [0, None] on rank 0, [1, None] on rank 1",
)
TOLD_OF_TENSORS = ("'number' is 0 on rank 0, 1 on rank 1", "'tensor' is not the same on rank 0 as on rank 1")


@pytest.mark.parametrize("way", ["together", pytest.param("uncoordinated", marks=NEEDS_UNCOORDINATED)])
def test_what_differs_between_ranks_is_told_unless_each_rank_gets_its_own_back(daemon, pool, run, way):
    options = {} if way == "together" else {"use_collectives": False}
    first, second = pool.run(save_heard, 2, daemon.address, f"{run}/{way}", options)
    for said in TOLD_OF_TENSORS:
        assert said in first
    for said in TOLD_OF_VALUES:
        assert (said in first) == (way == "together")
    assert "same" not in first.replace("not the same", "")
    assert "nested" not in first
    assert not second
    refused = pool.run(save_heard, 2, daemon.address, f"{run}/refused", {**options, "replicas": "refuse"})
    for lines in refused:
        assert "ranks have other values under one name" in lines
    assert not list(daemon.root.glob(f"{run}/refused/model.ckpt*"))


def load_resharded(address, run):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state = {"w": distribute_tensor(torch.zeros(10), mesh, [Shard(0)]), "step": 0}
    dcp.load(state, storage_reader=CkptdStorageReader(address, run=run))
    assert torch.equal(state["w"].full_tensor(), torch.arange(10.0))
    assert state["step"] == 7


@NEEDS_UNCOORDINATED
def test_what_was_saved_without_collectives_is_resharded_as_any_other(daemon, pool, run):
    pool.run(save_uncoordinated, 2, daemon.address, run)
    for world_size in (3, 1):
        pool.run(load_resharded, world_size, daemon.address, run)


def fail_on_one_rank(address, run):
    mesh = init_device_mesh("cpu", (2,))
    state = {"w": distribute_tensor(torch.arange(6.0), mesh, [Shard(0)])}
    bad = {f"value {dist.get_rank()}": object() if dist.get_rank() else 5}
    writer = CkptdStorageWriter(address, run=run, step=1)
    with pytest.raises(CheckpointException) as caught:
        dcp.save({**state, **bad}, storage_writer=writer)
    assert str(caught.value.failures[1][0]).startswith("value 1: object can't be saved without pickle")
    # The other rank is told why, in the words of the one that failed.
    assert "value 1: object can't be saved without pickle" in str(caught.value.failures[0][0])
    dcp.save(state, storage_writer=writer)  # and the next one is none the worse
    return writer.checkpoint.step


def test_a_save_that_one_rank_fails_fails_at_once_on_every_rank(daemon, pool, run):
    assert pool.run(fail_on_one_rank, 2, daemon.address, run) == [1, 1]


def save_alone(address, run):
    if dist.get_rank() == 1:
        dcp.save({"w": torch.ones(3)}, storage_writer=CkptdStorageWriter(address, run=run, step=1), no_dist=True)
    dist.barrier()
    state = {"w": torch.zeros(3)}
    dcp.load(state, storage_reader=CkptdStorageReader(address, run=run), no_dist=True)
    assert torch.equal(state["w"], torch.ones(3))


@pytest.mark.skipif(not CAN_BE_ALONE, reason="this torch has no public no_dist")
def test_one_rank_saves_and_loads_without_the_others(daemon, pool, run):
    pool.run(save_alone, 2, daemon.address, run)
