"""An arena is memory that nobody can cut short, and that tells how far it is filled."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ckptd.arena.segment import HEADER_BYTES, Segment
from ckptd.errors import CorruptionError


@pytest.fixture
def segment():
    segment = Segment.create(10_000)
    yield segment
    segment.close()


def test_both_ends_see_the_same_bytes(segment):
    other = Segment.attach(os.dup(segment.descriptor), writable=True)
    assert other.size_bytes == segment.size_bytes >= 10_000
    other.data[:5] = np.arange(5)
    other.captured = 5
    assert segment.data[:5].tolist() == [0, 1, 2, 3, 4]
    assert segment.captured == 5
    other.close()


def test_beginning_anew_is_seen_before_a_byte_is_changed(segment):
    segment.captured = 100
    assert segment.begin() == 1
    assert (segment.generation, segment.captured) == (1, 0)
    assert segment.begin() == 2


def test_nobody_can_change_its_size(segment):
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, HEADER_BYTES)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, 1 << 20)


def test_data_begin_at_a_page(segment):
    assert segment.data.__array_interface__["data"][0] % 4096 == 0


def test_a_reader_cannot_write(segment):
    reader = Segment.attach(segment.read_only(), writable=False)
    segment.data[7] = 9
    assert reader.data[7] == 9
    with pytest.raises(ValueError, match="read-only"):
        reader.data[7] = 1
    reader.close()


def test_no_other_user_can_open_it_anew_under_proc(segment):
    reader = segment.read_only()
    assert os.fstat(reader).st_mode & 0o777 == 0o600
    os.close(reader)


def test_pages_are_made_as_long_as_that_is_wanted(segment):
    segment.data[3] = 7
    segment.prefault(segment.size_bytes)
    segment.prefault(segment.size_bytes, lambda: False)
    assert segment.data[3] == 7


def test_what_is_no_arena_is_refused(tmp_path):
    plain = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(plain, 1 << 16)
    with pytest.raises(Exception, match="no arena|can't be mapped"):
        Segment.attach(plain, writable=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(plain)  # it was taken over
    other = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(other, 1 << 16)
    with pytest.raises(CorruptionError, match="no arena"):
        Segment.attach(other, writable=True)
