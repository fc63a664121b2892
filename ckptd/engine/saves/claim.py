"""One rank's part in a save: what it declared, and the memory that it captures into, if it need not send."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.journal import Actor
from ckptd.engine.lanes.capture import Capture, Holding
from ckptd.engine.lanes.elsewhere import RemoteCapture
from ckptd.engine.lanes.feeding import SegmentRun, feed, first_sums, runs_of, stretches_of, sum_rows
from ckptd.engine.lanes.lane_writer import LaneWriter
from ckptd.engine.lanes.standstill import Standstill
from ckptd.engine.layout import Assignment, Column, LaneTransport, Layout
from ckptd.engine.manifest import Manifest
from ckptd.engine.replicas import Compared, Remark
from ckptd.errors import CkptdError


@dataclass(slots=True)
class Claim:
    """See the module. The run's lock guards it."""

    request_id: str
    incarnation: str
    digest: bytes
    manifest: Manifest | None  # until it is planned
    planned: Future[Assignment] | None  # until the save is over
    done_at: float | None = None  # when its last lane ended
    capture: Capture | None = None  # where its bytes are
    sum_begins: Column | None = None  # per part, the first of its checksums in the capture
    compared: Compared | None = None  # until it is planned, as are the remarks
    remarks: tuple[Remark, ...] = ()
    refuses_differences: bool = False
    actor: Actor | None = None
    host: str = ""  # whose agent writes its bytes; "" when they come here
    elsewhere: RemoteCapture | None = None  # in that host's memory
    _fed: dict[int, list[SegmentRun]] | None = None  # per shard, once it is fed from here: mostly agents feed

    @classmethod
    def of(
        cls, declaration: Declaration, manifest: Manifest, capture: Capture | None, planned: Future[Assignment]
    ) -> Claim:
        """Return what a rank declares; `planned` answers it."""
        return cls(
            declaration.request_id,
            declaration.save.incarnation,
            manifest.digest,
            manifest,
            planned,
            capture=capture,
            sum_begins=None if capture is None else first_sums(manifest),
            compared=declaration.compared,
            remarks=declaration.remarks,
            refuses_differences=declaration.refuses_differences,
            actor=declaration.actor,
            host=declaration.host,
            elsewhere=RemoteCapture() if declaration.host else None,
        )

    def is_by(self, ref: SaveRef, request_id: str) -> bool:
        """Whether this process has declared it by this request."""
        return (self.request_id, self.incarnation) == (request_id, ref.incarnation)

    def forget_declared(self) -> None:
        """Free what only the plan needs: with many ranks that adds up."""
        self.manifest, self.compared, self.remarks = None, None, ()

    @property
    def transport(self) -> LaneTransport:
        """How its bytes arrive."""
        return LaneTransport.STREAM if self.capture is None else LaneTransport.ARENA

    @property
    def is_safe(self) -> bool:
        """Whether the save can do without the rank from now on."""
        capture = self.capture or self.elsewhere
        return capture is not None and capture.is_sealed

    def feed(
        self, layout: Layout, lanes: Sequence[LaneWriter], standstill: Standstill, submit: Callable[..., None]
    ) -> None:
        """Begin to take the lanes of this rank from where it captures them, if it does; each by work for `submit`."""
        if self.capture is None or self.sum_begins is None:
            return
        fed = self._fed = self._fed or {}
        for lane in lanes:
            runs = fed[lane.shard] = runs_of(layout, lane.segments, self.capture.offsets)
            submit(feed, lane, runs, self.capture, sum_rows(layout, lane.segments, self.sum_begins), standstill)

    def plan_anew(self) -> None:
        """Forget what was taken for an earlier plan."""
        self._fed = None

    def keep_in_memory(self, save_id: str, index_crc32c: int | None, shard_keys: Mapping[int, str]) -> None:
        """Record in the memory which save it holds, now that it is published: a restart right after reads it there.

        Not for memory that training can reach: a later change there would go unnoticed in a box of a tensor.
        """
        if index_crc32c is not None and self.capture is not None and not self.capture.is_staged:
            held = [
                stretch
                for shard, runs in (self._fed or {}).items()
                for stretch in stretches_of(runs, shard_keys[shard])
            ]
            self.capture.saved(Holding(save_id, index_crc32c, held))

    def refuse(self, error: CkptdError) -> None:
        """Answer the declaration with an error, if it has not been answered."""
        if self.planned is not None and not self.planned.done():
            self.planned.set_exception(error)

    def published(self, checkpoint: Checkpoint) -> None:
        """Answer with the checkpoint, if it was never planned here: it was published all the same."""
        if self.planned is not None and not self.planned.done():
            self.planned.set_result(checkpoint)  # type: ignore[arg-type]  # see `answered`

    def end(self, error: CkptdError | None) -> None:
        """Note that the save is over: free everything that is large, as ended saves are remembered for a while."""
        if error is not None:
            self.refuse(error)
        if self.capture is not None:
            self.capture.ended()
        self.forget_declared()
        self.capture = self.sum_begins = self.planned = None
        self._fed = None
