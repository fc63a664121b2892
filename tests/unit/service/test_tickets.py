from __future__ import annotations

import pytest

from ckptd.service.tickets import Tickets
from ckptd.wire.tickets import MAX_TICKET_BYTES


@pytest.mark.parametrize("uid", [0, 1001, 2**32 - 2])
def test_a_ticket_says_its_user_to_the_daemon_that_made_it_and_to_no_other(uid):
    ours = Tickets()
    ticket = ours.made_for(uid)
    assert ours.uid_of(ticket) == uid
    assert Tickets().uid_of(ticket) is None
    assert len(ticket) <= MAX_TICKET_BYTES


@pytest.mark.parametrize(
    "forge",
    [
        lambda ticket: "",
        lambda ticket: "1001",
        lambda ticket: "1001.",
        lambda ticket: ticket.replace("1001.", "0."),
        lambda ticket: ticket.replace("1001.", "01001."),
        lambda ticket: ticket.replace("1001.", "+1001."),
        lambda ticket: ticket.replace("1001.", "١٠٠١."),
        lambda ticket: ticket.replace("1001.", "²."),
        lambda ticket: ticket.replace("1001.", "9" * 10_000 + "."),
        lambda ticket: ticket.replace("1001.", "."),
        lambda ticket: ticket + " ",
        lambda ticket: ticket[:-1],
        lambda ticket: ticket + "é",
        lambda ticket: ticket + "\udc80",
    ],
)
def test_what_somebody_made_up_says_nothing(forge):
    tickets = Tickets()
    assert tickets.uid_of(forge(tickets.made_for(1001))) is None
