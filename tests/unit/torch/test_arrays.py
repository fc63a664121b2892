from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ckptd.errors import InvalidRequestError  # noqa: E402
from ckptd.torch import array_of, memory_of, tensor_of  # noqa: E402
from ckptd.torch.arrays import _NUMPY_DTYPES as NUMPY_DTYPES  # noqa: E402
from ckptd.torch.arrays import fill  # noqa: E402

LAYOUTS = {
    "whole": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.T,
    "every other": lambda tensor: tensor[::2, 1:4],
    "scalar": lambda tensor: tensor[1, 2],
    "empty": lambda tensor: tensor[:0],
    "broadcast": lambda tensor: tensor[0].expand(3, 6),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", NUMPY_DTYPES, ids=str)
def test_a_tensor_and_its_array_share_memory_both_ways(dtype, layout):
    tensor = LAYOUTS[layout](torch.arange(24).reshape(4, 6).to(dtype))
    array = array_of("x", tensor)
    back = tensor_of(array)
    assert array.shape == tuple(tensor.shape)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    if tensor.numel():
        assert array.__array_interface__["data"][0] == tensor.data_ptr() == back.data_ptr()
        assert back.stride() == tensor.stride()
    assert torch.equal(back.to(torch.complex128), tensor.to(torch.complex128))


def test_a_parameter_needs_no_detaching_and_is_filled_in_place():
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    memory_of("p", parameter)[:] = 2
    assert parameter.tolist() == [2.0, 2.0, 2.0]
    assert array_of("p", parameter).dtype.name == "bfloat16"


def test_a_conjugated_tensor_is_read_as_it_looks_and_filled_by_a_copy():
    plain = torch.tensor([1 + 2j, 3 - 1j])
    conjugated = plain.conj()
    assert array_of("c", conjugated).tolist() == [1 - 2j, 3 + 1j]
    assert memory_of("c", conjugated) is None
    assert memory_of("c", conjugated.imag) is None  # a negation that is not carried out yet
    fill("c", conjugated, np.array([5j, 7], np.complex64))
    assert plain.tolist() == [-5j, 7]


def test_what_torch_cannot_view_is_copied():
    backwards = tensor_of(np.arange(3)[::-1])
    read_only = np.frombuffer(b"\x01\x02", np.uint8)
    assert backwards.tolist() == [2, 1, 0]
    assert tensor_of(read_only).add_(1).tolist() == [2, 3]
    assert read_only.tolist() == [1, 2]
    assert tensor_of(np.arange(3, dtype=">i4")).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.ones(3, device="meta"), "meta device"),
        (torch.eye(3).to_sparse(), "sparse"),
    ],
    ids=["meta", "sparse"],
)
def test_what_has_no_elements_to_store_is_refused_by_name(tensor, told):
    with pytest.raises(InvalidRequestError, match=rf"'layer\.weight'.*{told}"):
        array_of("layer.weight", tensor)


def test_strings_are_no_tensors():
    with pytest.raises(InvalidRequestError, match="no tensors of such elements"):
        tensor_of(np.array([b"text"], object))


def test_filling_with_what_does_not_fit_tells_both():
    with pytest.raises(InvalidRequestError, match=r"float64 \[2\].*torch.float32 \[3\]"):
        fill("w", torch.zeros(3), np.zeros(2))
