from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ckptd.errors import InvalidRequestError  # noqa: E402
from ckptd.torch import array_of, memory_of, tensor_of  # noqa: E402
from ckptd.torch.arrays import NUMPY_DTYPES, fill, numpy_dtype_of  # noqa: E402

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
    with pytest.raises(InvalidRequestError, match="torch has no dtype for such elements"):
        tensor_of(np.array([b"text"], object))


def test_filling_with_what_does_not_fit_tells_both():
    with pytest.raises(InvalidRequestError, match=r"float64 \[2\].*torch.float32 \[3\]"):
        fill("w", torch.zeros(3), np.zeros(2))


EVERY = sorted({str(one) for one in vars(torch).values() if isinstance(one, torch.dtype)})


@pytest.mark.parametrize("name", EVERY)
def test_every_dtype_of_this_torch_comes_back_exactly_or_is_refused_by_name(name):
    dtype = getattr(torch, name.removeprefix("torch."))
    if dtype in NUMPY_DTYPES:
        tensor = torch.zeros(2, 4, dtype=torch.int64).view(dtype)
        back = tensor_of(array_of("x", tensor))
        assert back.dtype == dtype
        assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))
        return
    with pytest.raises(InvalidRequestError, match=f"'x': elements of {name} can't be stored"):
        numpy_dtype_of("x", dtype)


@pytest.mark.parametrize("name", ["float8_e8m0fnu", "float4_e2m1fn_x2", "complex32"])
def test_a_dtype_that_the_format_lacks_can_be_stored_as_its_bits_as_the_error_says(name):
    dtype = getattr(torch, name, None)
    if dtype is None:  # an older torch
        assert f"torch.{name}" not in EVERY
        return
    bits = torch.uint8 if dtype.itemsize == 1 else torch.int32
    with pytest.raises(InvalidRequestError, match=rf"store x.view\({bits}\), .* .view\(torch.{name}\)"):
        numpy_dtype_of("x", dtype)
    tensor = torch.arange(8, dtype=bits).view(dtype)
    back = tensor_of(array_of("x", tensor.view(bits))).view(dtype)
    assert back.dtype == dtype
    assert torch.equal(back.view(bits), tensor.view(bits))
