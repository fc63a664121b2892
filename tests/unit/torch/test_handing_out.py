"""What one rank has loaded arrives whole at the others, and so does its error."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.unit.torch import handing_jobs as jobs
from tests.unit.torch.gloo import Ranks


def test_tensors_of_every_kind_arrive_and_errors_too():
    with Ranks(2) as ranks:
        assert ranks.each(2, jobs.hand_out) == [str(jobs.LOADED)] * 2
        assert ranks.each(2, jobs.fail) == ["nothing there"] * 2
