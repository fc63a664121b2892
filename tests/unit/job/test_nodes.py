"""Which node this is, as SLURM, torchrun and people say it."""

from __future__ import annotations

import pytest

from ckptd.errors import InvalidRequestError
from ckptd.job.nodes import Node, node_of


@pytest.mark.parametrize(
    ("environ", "is_first", "is_alone"),
    [
        ({}, True, True),
        ({"SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_LOCALID": "0"}, True, True),
        ({"SLURM_NODEID": "0", "SLURM_NNODES": "8", "SLURM_LOCALID": "0"}, True, False),
        ({"SLURM_NODEID": "3", "SLURM_NNODES": "8"}, False, False),
        ({"SLURM_NODEID": "0", "SLURM_STEP_NUM_NODES": "1", "SLURM_NNODES": "8"}, True, True),
        ({"NODE_RANK": "1"}, False, False),
        ({"NODE_RANK": "0", "NNODES": "2"}, True, False),
        ({"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"}, False, False),
        ({"NODE_RANK": "0", "NNODES": "1:4"}, True, False),
        ({"NODE_RANK": " "}, True, True),
        ({"JOB_COMPLETION_INDEX": "7"}, False, False),
    ],
)
def test_the_environment_says_which_node_this_is(environ, is_first, is_alone):
    node = node_of(environ)
    assert (node.is_first, node.is_alone) == (is_first, is_alone)


def test_by_hand_one_node_is_told_that_it_is_the_first():
    assert node_of({}, is_first=True) == Node(True, False, "--first")
    assert node_of({"NODE_RANK": "0"}, is_first=True) == Node(True, False, "--first", 0)
    others = node_of({}, expects_others=True)
    assert (others.is_first, others.is_alone) == (False, False)


def test_a_directory_for_the_job_makes_node_0_the_first_of_several():
    node = node_of({"NODE_RANK": "0"}, expects_others=True)
    assert (node.is_first, node.is_alone) == (True, False)


def test_one_that_may_have_others_says_what_it_is_taken_for():
    assert node_of({"NODE_RANK": "0"}).caveat.startswith("NODE_RANK=0, and nothing says how many nodes there are")
    for clear in ({}, {"NODE_RANK": "0", "NNODES": "1"}, {"NODE_RANK": "0", "NNODES": "2"}, {"NNODES": "1"}):
        assert node_of(clear).caveat == ""


def test_first_is_for_one_node():
    with pytest.raises(InvalidRequestError, match="--first is for one node, and this is another: SLURM_NODEID=3"):
        node_of({"SLURM_NODEID": "3", "SLURM_NNODES": "8"}, is_first=True)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SLURM_NODEID": "0", "SLURM_LOCALID": "1"}, "--ntasks-per-node=1"),
        ({"NODE_RANK": "2", "NNODES": "2"}, "NODE_RANK and NNODES contradict each other (found 2 of 2)"),
        ({"NODE_RANK": "one"}, "NODE_RANK is no number (found one)"),
        ({"NNODES": "-1"}, "NNODES is no number (found -1)"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(environ, said):
    with pytest.raises(InvalidRequestError) as raised:
        node_of(environ)
    assert said in str(raised.value)
