"""The manifests that are remembered, so that a rank sends its manifest once and names it by its digest from then on."""

from __future__ import annotations

import threading
from collections import OrderedDict
from weakref import WeakValueDictionary

from ckptd.engine.manifest import Manifest
from ckptd.errors import NotFoundError

_REMEMBERED_BYTES = 256 << 20


class KnownManifests:
    """Manifests by digest, up to a bound in bytes; the least recently used go first. Thread-safe.

    One that something else needs, such as the layout of a run's latest save, is known for as long as it is there: else
    the ranks of a large job, which declare in turn, would each find theirs just forgotten, and send it at each save.
    """

    def __init__(self, most_bytes: int = _REMEMBERED_BYTES) -> None:
        """Begin empty. One manifest is remembered whatever its size."""
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._manifests: OrderedDict[bytes, Manifest] = OrderedDict()  # the one that was used last at the end
        self._bytes = 0
        self._needed: WeakValueDictionary[bytes, Manifest] = WeakValueDictionary()  # all that there are
        self._schemas: WeakValueDictionary[int, Manifest] = WeakValueDictionary()  # their schemas are shared

    def knows(self, digest: bytes) -> bool:
        """Whether a declaration may name this manifest by its digest alone."""
        with self._lock:
            return digest in self._needed

    def add(self, manifest: Manifest) -> None:
        """Remember a manifest."""
        digest = manifest.digest
        with self._lock:
            known = self._needed.get(digest)
            if known is None:
                known = manifest.sharing_with(self._schemas.setdefault(manifest.schema_hash, manifest))
                self._needed[digest] = known
            self._use(digest, known)

    def _use(self, digest: bytes, manifest: Manifest) -> None:
        if digest not in self._manifests:
            self._manifests[digest] = manifest
            self._bytes += manifest.memory_bytes
        self._manifests.move_to_end(digest)
        while self._bytes > self._most_bytes and len(self._manifests) > 1:
            _, forgotten = self._manifests.popitem(last=False)
            self._bytes -= forgotten.memory_bytes

    def find(self, digest: bytes) -> Manifest:
        """Return a manifest that is remembered; `NotFoundError` when it has to be sent whole."""
        with self._lock:
            manifest = self._needed.get(digest)
            if manifest is not None:
                self._use(digest, manifest)
        if manifest is None:
            raise NotFoundError("the manifest has to be sent whole", key=digest.hex())
        return manifest
