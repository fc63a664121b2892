"""What this life of an agent was told to write lately: what is planned so again need not be said again.

A share is known by the digest of the whole layout, which says what each host writes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from ckptd.engine.hosts.messages import Go, HostDeclaration
from ckptd.engine.layout import Layout
from ckptd.errors import NotFoundError

_MOST = 16


class KnownShares:
    """See the module. The agent's lock guards it."""

    def __init__(self) -> None:
        """Begin without any."""
        self._layouts: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()  # by run and manifests: the digest
        self._shares: OrderedDict[bytes, Layout] = OrderedDict()  # by digest

    def added_to(self, said: HostDeclaration) -> HostDeclaration:
        """Return a declaration that also says which layout is known here for what it declares."""
        digest = self._layouts.get((said.run, said.manifest_digest), b"")
        return replace(said, known_layout=digest if digest in self._shares else b"")

    def completed(self, go: Go, said: HostDeclaration) -> Go:
        """Return what the coordinator told, with the share that it left out; `NotFoundError` if that is not known."""
        if go.shard is None:
            return go
        share = go.share or self._shares.get(go.layout_digest)
        if share is None:
            raise NotFoundError("the coordinator did not say which bytes go where", key=go.key)
        if share.num_shards != go.num_shards:  # empty ones at the end: keys of an earlier attempt are taken
            sizes = (go.size_bytes if shard == go.shard else 0 for shard in range(go.num_shards))
            share = replace(share, shard_sizes=tuple(sizes))
        self._layouts[said.run, said.manifest_digest] = go.layout_digest
        self._shares[go.layout_digest] = share
        for known in (self._layouts, self._shares):
            while len(known) > _MOST:
                known.popitem(last=False)
        self._shares.move_to_end(go.layout_digest)
        self._layouts.move_to_end((said.run, said.manifest_digest))
        return go if go.share is share else replace(go, share=share)
