"""Constants: identity by content, dtypes both ways."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays, tensor_types
from strategies.kinds import ALL_DTYPES

from leptonc.ir.types import DType, TensorType
from leptonc.meaning import IR_DTYPES, TORCH_DTYPES, const_of, tensor_of, type_of


def test_dtypes_are_named_both_ways() -> None:
    assert set(TORCH_DTYPES) == set(DType) - {DType.OTHER}
    assert all(IR_DTYPES[t] is d for d, t in TORCH_DTYPES.items())
    assert all(torch.empty((), dtype=t).element_size() == d.nbytes for d, t in TORCH_DTYPES.items())
    assert type_of(torch.empty(2, dtype=torch.float8_e4m3fn)) == TensorType(DType.OTHER, (2,))


@given(tensor_types(ALL_DTYPES).flatmap(lambda t: st.tuples(arrays(t), arrays(t))))
def test_digests_are_equal_exactly_when_bits_are(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pair
    bits = [t.reshape(-1).view(torch.uint8) for t in pair]
    equal = torch.equal(*bits)
    assert (const_of(a).digest == const_of(b).digest) == equal
    assert (const_of(a) == const_of(b)) == equal
    assert tensor_of(const_of(a)).data_ptr() == a.data_ptr()


def test_digests_do_not_see_strides_but_see_shape_and_dtype() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert const_of(x) == const_of(x.to(memory_format=torch.channels_last))
    assert const_of(x.mT).digest == const_of(x.mT.contiguous()).digest
    assert const_of(x).digest != const_of(x.reshape(6, 16)).digest
    assert const_of(torch.zeros(2)).digest != const_of(torch.zeros(2, dtype=torch.int32)).digest
    assert const_of(torch.zeros(0, 2)).digest != const_of(torch.zeros(2, 0)).digest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.float8_e4m3fn])
def test_dtypes_numpy_lacks_have_digests(dtype: torch.dtype) -> None:
    x = torch.ones(3, 2).to(dtype)
    assert const_of(x).digest == const_of(x.clone()).digest
    assert len(const_of(torch.ones(()).to(dtype)).digest) == 64


def test_a_conjugate_view_is_its_values() -> None:
    x = torch.tensor([1 + 2j])
    assert const_of(x.conj()) == const_of(x.conj().resolve_conj())


def test_the_hash_is_lazy_and_fast() -> None:
    c = const_of(torch.randn(1 << 20).requires_grad_())
    assert "digest" not in vars(c)
    start = time.thread_time()
    assert c.digest
    assert time.thread_time() - start < 0.2  # 4 MiB; sha256 makes 0.3 GB/s where it is slowest
    assert not tensor_of(c).requires_grad


def test_only_tensors_are_payloads_here() -> None:
    c = const_of(torch.ones(1))
    with pytest.raises(TypeError, match="list"):
        tensor_of(type(c)(c.type, [1.0], c.hasher))
