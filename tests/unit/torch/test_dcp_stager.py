from __future__ import annotations

import gc
import pickle

import pytest

torch = pytest.importorskip("torch")

from ckptd.torch.dcp_session import CheckpointerKey, DcpSession  # noqa: E402
from ckptd.torch.dcp_stager import prepare, stage  # noqa: E402
from ckptd.torch.sharding import parts_of  # noqa: E402
from tests.unit.torch.shards import OwnItems, declared  # noqa: E402
from tests.unit.torch.versions import has  # noqa: E402

DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64]


@pytest.fixture
def session(tmp_path):
    session = DcpSession(CheckpointerKey(str(tmp_path), "run", 0, 1))
    yield session
    session.close()


def state():
    tied = torch.arange(6.0).reshape(2, 3)
    return {
        "dtypes": [torch.ones(3, 2).to(dtype) for dtype in DTYPES],
        "scalar": torch.tensor(5),
        "empty": torch.empty(0, 3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "tied": (tied, tied),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "plain": {"epoch": 3, "names": ["a"], "nothing": None},
    }


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [tensor for part in parts for tensor in tensors(part)]


def bytes_of(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)  # torch compares no float8


def test_what_is_staged_is_equal_and_does_not_change_with_the_original(session):
    original, expected = state(), state()
    prepare(original, session)
    staged = stage(original, session)
    for tensor in tensors(original):
        tensor.data.zero_()
    original["plain"]["names"].append("b")
    assert staged["plain"] == expected["plain"]
    assert isinstance(staged["tied"], tuple)
    for one, other in zip(tensors(staged), tensors(expected), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(bytes_of(one), bytes_of(other))
    assert not any(tensor.requires_grad for tensor in tensors(staged))
    assert staged["tied"][0].data_ptr() == staged["tied"][1].data_ptr()


def test_memory_is_handed_out_again_once_nobody_holds_it(session):
    first = stage({"w": torch.ones(100)}, session)
    where = first["w"].data_ptr()
    kept = first["w"][50:]  # a part keeps all of it
    del first
    second = stage({"w": torch.ones(100)}, session)
    assert second["w"].data_ptr() != where
    del kept, second
    gc.collect()
    assert stage({"w": torch.ones(100)}, session)["w"].data_ptr() == where


def test_what_cannot_be_stored_is_left_to_the_save_to_refuse(session):
    halves = torch.ones(2, dtype=torch.complex32)
    staged = stage({"halves": halves, "w": torch.ones(1)}, session)
    assert staged["halves"].dtype == torch.complex32
    assert not session.has_staged


def test_without_a_session_state_is_copied_all_the_same():
    original = state()
    staged = stage(original, None)
    original["turned"].zero_()
    assert torch.equal(staged["turned"], state()["turned"])


def shards_of(tensor):
    return [(one.start, one.full_shape, one.part.copy()) for one in parts_of("w", tensor)]


@pytest.mark.parametrize("privately", [False, True])
@pytest.mark.parametrize("kind", ["own", "declared"] if has(2, 14) else ["own"])
def test_what_a_tensor_says_of_its_shards_is_staged_with_it(session, kind, privately):
    local = torch.arange(9.0, dtype=torch.float16).reshape(3, 3)
    boxes = [((0, 0), (0, 0), (1, 3)), ((3, 0), (2, 0), (1, 3))]
    own = OwnItems((4, 3), [((0, 0), local[:1]), ((3, 0), local[2:])])
    original = own if kind == "own" else declared(local, (4, 3), *boxes)
    original.notes = {"of its owner": [1]}
    expected = shards_of(original)
    staged = stage({"w": original}, None if privately else session)["w"]
    assert session.has_staged is not privately
    original.notes["of its owner"].append(2)
    local.zero_()
    assert staged.notes == {"of its owner": [1]}
    for one, other in zip(shards_of(pickle.loads(pickle.dumps(staged))), expected, strict=True):
        assert one[:2] == other[:2]
        assert one[2].dtype == other[2].dtype
        assert (one[2] == other[2]).all()


def test_attributes_that_are_no_plain_values_are_not_copied():
    tensor = torch.ones(2)
    tensor.gradient, tensor.module, tensor.tag = torch.ones(1 << 20), torch.nn.Linear(1, 1), "mine"
    assert vars(stage({"w": tensor}, None)["w"]) == {"tag": "mine"}
