"""The calls of `save` on one host: those under way, and those that ended lately, as a rank may repeat what it said."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from ckptd.agent.host_call import HostCall
from ckptd.engine.identity import SaveRef

_MOST_ENDED = 256


class CallTable:
    """See the module. The agent's lock guards it.

    Attributes:
        live: those under way, in the order in which they began.
    """

    def __init__(self) -> None:
        """Begin without calls."""
        self.live: list[HostCall] = []
        self._ended: OrderedDict[int, HostCall] = OrderedDict()

    def begin(self, call: HostCall) -> None:
        """Take in a call that is under way."""
        self.live.append(call)

    def end(self, call: HostCall) -> None:
        """Note that a call is over."""
        self.live.remove(call)
        self._ended[id(call)] = call
        if len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)

    def of_request(self, request_id: str) -> HostCall | None:
        """Return the call under way that was declared by this request."""
        return next((call for call in self.live if call.request_id == request_id), None)

    def of_checkpoint(self, run: str, prefix: str) -> list[HostCall]:
        """Return the calls under way that save a checkpoint, but those that were given up."""
        return [c for c in self.live if c.run == run and c.first.prefix == prefix and not c.is_given_up]

    def of_save(self, save: SaveRef) -> HostCall | None:
        """Return the call by which a rank takes part in a save, or another of its host; under way or ended."""
        ours = [call for call in self.of_id(save.save_id) if call.run == save.run]
        return next((call for call in ours if save.rank in call.claims), next(iter(ours), None))

    def of_id(self, save_id: str) -> Iterator[HostCall]:
        """Yield the calls that are one save, under way or ended."""
        return (call for call in self._all() if call.go is not None and call.go.save == save_id)

    def declared_by(self, save: SaveRef, request_id: str) -> HostCall | None:
        """Return the call, under way or ended, that a rank has declared by this request."""
        for call in self._all():
            claim = call.claims.get(save.rank)
            if call.run == save.run and claim is not None and claim.is_by(save, request_id):
                return call
        return None

    def _all(self) -> Iterator[HostCall]:
        yield from self.live
        yield from self._ended.values()
