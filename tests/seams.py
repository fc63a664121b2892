"""The seams: the places in ckptd where a test may put something else, each named once.

A test sets one by `seams.NAME.put(monkeypatch, value)`. So a constant or a function that moves is one line here, and
`tests/unit/test_architecture.py` holds the rest: every seam exists, is public and is used, and no test replaces
anything of ckptd, or reaches for anything private, but through these.

Prefer, in this order: an argument that the code takes anyway (a clock, a disk, a store, a limit), the effect that a
user sees, a fake of `tests/fakes`. A seam is for limits that would take gigabytes or minutes to reach, and for moments
that only a step in the middle of the work can show.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Seam:
    """Something that belongs to a module or a class of ckptd and that a test may replace."""

    where: str
    """``module:NAME`` or ``module:Class.method``, the module below ckptd."""

    def put(self, patch: pytest.MonkeyPatch, value: Any) -> None:
        """Put `value` in its place, until `patch` is undone."""
        owner, name = self._find()
        patch.setattr(owner, name, value)

    def in_program(self, value: str) -> str:
        """Return a statement that puts there what the expression `value` gives, for a program that has no tests."""
        module, _, path = self.where.partition(":")
        outer, _, name = path.rpartition(".")
        owner = f"importlib.import_module('ckptd.{module}')" + (f".{outer}" if outer else "")
        return f"import importlib; setattr({owner}, {name!r}, {value})"

    @property
    def value(self) -> Any:
        """What is there now."""
        owner, name = self._find()
        return getattr(owner, name)

    def _find(self) -> tuple[Any, str]:
        module, _, path = self.where.partition(":")
        owner: Any = importlib.import_module(f"ckptd.{module}")
        *outer, name = path.split(".")
        for each in outer:
            owner = getattr(owner, each)
        return owner, name


# Limits in bytes and elements, which tests set low

CRC_CHUNK_BYTES = Seam("format.crc32c:CHUNK_BYTES")
TABLE_BLOCK_BYTES = Seam("format.table:BLOCK_SIZE")
READ_BLOCK_BYTES = Seam("engine.reading.bundle:BLOCK_BYTES")
KEPT_INDEX_BYTES = Seam("engine.lanes.merge:KEPT_BYTES")
PARALLEL_READ_BYTES = Seam("engine.reading.piece_reads:PARALLEL_BYTES")
STATISTICS_WHOLE_BYTES = Seam("engine.reading.statistics:WHOLE_BYTES")
STATISTICS_ELEMENTS = Seam("engine.reading.statistics:ELEMENTS_AT_ONCE")
VERIFY_BLOCK_BYTES = Seam("engine.reading.verify:BLOCK_BYTES")
STREAM_WHOLE_BYTES = Seam("interchange.bundle:WHOLE_BYTES")
STREAM_BLOCK_BYTES = Seam("interchange.bundle:BLOCK_BYTES")
COMPARED_ELEMENTS = Seam("interchange.comparing:PART_ELEMENTS")
NPZ_TRANSPOSED_BYTES = Seam("interchange.npz:MAX_TRANSPOSED_BYTES")
NPZ_BUFFER_BYTES = Seam("interchange.npz:BUFFER_BYTES")
NPZ_UNPACKED_BYTES = Seam("interchange.npz:MAX_UNPACKED_BYTES")
SOURCE_READ_BYTES = Seam("interchange.source:MAX_READ_BYTES")

COPY_PARALLEL_BYTES = Seam("client.capture.capturing:PARALLEL_BYTES")
COPY_STRIPE_BYTES = Seam("client.capture.capturing:STRIPE_BYTES")
NUM_COPIERS = Seam("client.capture.capturing:NUM_COPIERS")
SUM_PARALLEL_BYTES = Seam("client.capture.summing:PARALLEL_BYTES")
SUM_SMALL_BYTES = Seam("client.capture.summing:SMALL_BYTES")
SUM_BUNCH_BYTES = Seam("client.capture.summing:BUNCH_BYTES")
COPIED_FIRST_BYTES = Seam("engine.lanes.feeding:SHORT_BYTES")
LONG_CAPTURE_BYTES = Seam("engine.lanes.feeding:LONG_BYTES")
LONG_STANDSTILL_BYTES = Seam("engine.lanes.standstill:LONG_BYTES")
NEW_RUNS_AT_ONCE = Seam("service.allowances:NEW_RUNS_AT_ONCE")
MOST_WAITING_CALLS = Seam("service.pools:MOST_WAITING")
MOST_DAMAGE_CHECKS = Seam("service.read:MOST_CHECKS")
HELD_BLOCK_BYTES = Seam("client.daemon.held_objects:BLOCK_BYTES")

# Waits and ages in seconds, which tests shorten

DAEMON_FULL_WAIT_S = Seam("client.daemon.join_call:STORE_WAIT_S")
FIRST_CONFLICT_WAIT_S = Seam("client.daemon.join_call:FIRST_CONFLICT_WAIT_S")
COORDINATOR_TRY_S = Seam("agent.whereabouts:TRY_S")
READ_NOTICE_S = Seam("engine.reading.waits:NOTICE_S")
READ_LOOK_EVERY_S = Seam("client.daemon.told_waits:LOOK_EVERY_S")
NEIGHBOUR_SILENT_S = Seam("agent.silence:SILENT_S")
MEMORY_FIRST_JOIN_S = Seam("client.daemon.host_memory:FIRST_JOIN_S")
MEMORY_CONNECT_S = Seam("client.daemon.arena_link:CONNECT_TIMEOUT_S")
FIRST_CONTACT_S = Seam("client.daemon.contact:FIRST_CONTACT_S")
AVOIDED_PORT_S = Seam("client.daemon.routes:AVOID_S")
ACCEPT_PAUSE_S = Seam("service.arenas:ACCEPT_PAUSE_S")
CLOSE_MARGIN_S = Seam("client.saving.under_way:CLOSE_MARGIN_S")
WAIT_NOTICE_S = Seam("client.saving.waits:NOTICE_S")
LEAVE_S = Seam("daemon.app:LEAVE_S")
EVENTS_PATIENCE_S = Seam("events.delivery:PATIENCE_S")
END_NOTICE_S = Seam("client.saving.end_of_process:TELL_S")
DIRECT_LOCK_WAIT_S = Seam("client.direct.engines:LOCK_WAIT_S")
WITHDRAWAL_GRACE_S = Seam("engine.saves.withdrawals:GRACE_S")
RUN_OPENING_S = Seam("engine.saves.runs:PATIENCE_S")
SERVED_OPENING_S = Seam("service.opening:OPENING_S")
SEND_TIMEOUT_S = Seam("wire.frames:SEND_TIMEOUT_S")
ARENA_HELLO_S = Seam("service.arena_connection:HELLO_S")
IDENTITIES_LOOK_EVERY_S = Seam("daemon.identity_files:LOOK_EVERY_S")
LATE_REFUSAL_S = Seam("service.door:LATE_S")
WATCH_POLL_S = Seam("watch.directory:POLL_S")
SWEPT_BY_AGE_S = Seam("storage.bucket.object_store:SWEPT_BY_AGE_S")
SLOW_SYNC_S = Seam("storage.local.examine:SLOW_SYNC_S")
MAX_SKEW_S = Seam("storage.local.examine:MAX_SKEW_S")

# What the other end of a connection is like

OFFERED_CAPABILITIES = Seam("wire.versions:CAPABILITIES")

# What the host and other processes are like

AUTOGROUP_FILE = Seam("engine.priority:AUTOGROUP")
IO_CLASS_AND_LEVEL = Seam("engine.priority:CLASS_AND_LEVEL")
IDLE_THREADS = Seam("threads:idle")
SYSTEM_SOCKET = Seam("wire.places:SYSTEM_SOCKET")
EXAMINED_MOUNT = Seam("storage.local.examine:mount_of")
WATCHED_MOUNT = Seam("watch.hints:mount_of")
PROBED_BUCKETS = Seam("storage.bucket.probe:KNOWN")
READ_BOUNCES = Seam("storage.local.around_cache:READ_BOUNCES")
WRITE_BOUNCES = Seam("storage.local.around_cache:BOUNCES")

# The store: every path becomes one here, and every one in a directory has these methods

STORE_OF_DIRECTORY = Seam("storage.locations:LocalStore")
CREATE_ON_DISK = Seam("storage.local.local_store:LocalStore.create")
REPLACE_ON_DISK = Seam("storage.local.local_store:LocalStore.replace")
DELETE_ON_DISK = Seam("storage.local.local_store:LocalStore.delete")
READ_FROM_DISK = Seam("storage.local.local_store:LocalStore.read_into")
HOLD_ON_DISK = Seam("storage.local.local_store:LocalStore.hold")
RESERVE_ON_DISK = Seam("storage.local.system_disk:SystemDisk.reserve")
FREE_ON_DISK = Seam("storage.local.system_disk:SystemDisk.free_bytes")
OPEN_STORE_OF_DAEMON = Seam("client.daemon.remote_objects:open_store")

# What older peers say, and what processes are called

CHECK_RUN_NAME = Seam("format.names:check_run_name")
DECLARATION_TO_WIRE = Seam("wire.convert:declaration_to_wire")
DECLARATION_FROM_WIRE = Seam("wire.convert:declaration_from_wire")
FINER_ERRORS = Seam("wire.status:FINER")
ASSIGNMENT_FROM_WIRE = Seam("wire.lanes:assignment_from_wire")
SERVE_DECLARE = Seam("service.save:SaveService.declare")
SERVE_AWAIT = Seam("service.save:SaveService.await_")
SERVE_ABORT = Seam("service.save:SaveService.abort")
WITHDRAW = Seam("engine.saves.coordinator:Coordinator.withdraw")
THIS_PEER = Seam("wire.versions:this_peer")
NEW_INCARNATION = Seam("wire.versions:new_incarnation")

# Rules that a test takes out, to show that it is they that hold a promise

DECIDE_FIRST = Seam("engine.catalog.records:change_if_unchanged")
IS_TAKEN = Seam("engine.catalog.elsewhere:Elsewhere.is_taken")
LIVE_KEYS = Seam("engine.catalog.ledger:Ledger.live_keys")
SWEEP_BUCKET = Seam("storage.bucket.object_store:ObjectStore.sweep_unfinished")
IS_OUTDATED = Seam("agent.machine:AgentMachine.is_outdated")
CONFIRM_TERM = Seam("engine.catalog.term:Term.confirm")
HEAR_AGENT = Seam("engine.hosts.attendance:Attendance.hear")
IS_PRESENT = Seam("engine.hosts.attendance:Attendance.is_present")
SAVE_CALL = Seam("engine.saves.save_queue:SaveQueue.call_of")
IN_DOUBT = Seam("engine.saves.host_requests:InDoubtError")
CHOOSE_NUM_SHARDS = Seam("engine.catalog.catalog:Catalog.choose_num_shards")

# Steps that a test waits in, counts or lets fail

VERIFY = Seam("engine.reading.verify:verify")
TELL_STORY = Seam("demo.story:tell")
EACH_OF_SEVERAL = Seam("threads:each")
START_THREAD = Seam("threads:start")
SUBMIT_WORK = Seam("threads:Pool.submit")
NEW_LOCK = Seam("threads:new_lock")
CLOSE_RUNS = Seam("engine.saves.runs:Runs.close")
LOOK = Seam("watch.look:Looker.look")
DESCRIBE = Seam("engine.catalog.survey:describe")
SERVE_DECLARE = Seam("service.save:SaveService.declare")
SERVE_AWAIT_PLAN = Seam("service.save:SaveService.await_plan")
REFUSAL_LOG = Seam("service.refusal_log:log")
IS_REFUSED_AGAIN = Seam("service.refusal_log:log.is_repeated")
RECEIVE_PROXIED = Seam("wire.proxied:receive")
HUB_WATCH = Seam("watch.hub:Hub.watch")
PREPARE_SAVE = Seam("client.capture.preparing:Preparation.prepare")
BEGIN_SAVE = Seam("client.saving.undertaking:Undertaking.begin")
COPY_PIECE = Seam("client.capture.capturing:copy_piece")
GATHER = Seam("client.capture.capturing:gather")
CAPTURE = Seam("client.capture.snapshot:Snapshot.capture")
STAGE_ARRAY = Seam("client.capture.staging:Staging.array")
NEW_ROOM = Seam("client.capture.buffers:PrivateRoom.__init__")
CARRY_OUT = Seam("client.saving.undertaking:carry_out")
SEND_TO_DAEMON = Seam("client.daemon.remote_saves:RemoteSaves.send")
OUTCOME_IN_PROCESS = Seam("client.direct.direct_saves:DirectSaves.outcome")
OUTCOME_AT_DAEMON = Seam("client.daemon.remote_saves:RemoteSaves.outcome")
JOIN_RUN = Seam("engine.saves.coordinator:Coordinator.join")
COMMIT_SAVE = Seam("engine.saves.save:Save.commit")
RETIRE = Seam("engine.saves.served_catalog:ServedCatalog.retire")
DECLARE_IN_RUN = Seam("engine.saves.run:Run.declare")
READ_HELD = Seam("arena.lender:Lender.read_held")
LEND_ROOM = Seam("arena.lender:Lender.begin")
SUM_CAPTURE = Seam("client.capture.snapshot:Snapshot.sum")
TAKE_LANE = Seam("engine.lanes.lane_writer:LaneWriter.take")
SUM_LANE = Seam("engine.lanes.lane_writer:LaneWriter.sum")
SEND_LANE = Seam("client.daemon.remote_saves:send_lane")
READ_BLOCKS = Seam("client.daemon.remote_objects:RemoteObjects.blocks")
WRITE_CHUNK = Seam("engine.lanes.lane_writer:LaneWriter.write")
FILL_ARRAYS = Seam("client.restoring.reader:CheckpointReader.fill")
STORED_OF_TRAINER = Seam("torch.transformers:Stored")
READ_MANY = Seam("client.restoring.reader:CheckpointReader.get_many")
RESTORED_BUNDLE = Seam("client.restoring.restoring:Bundle")
HOLD_WHILE_READING = Seam("engine.reading.bundle:hold")
IS_LOOPBACK = Seam("wire.addresses:Address.is_loopback")
NEW_CATALOG = Seam("engine.catalog.catalog:Catalog.__init__")
BEGIN_SHARD = Seam("engine.lanes.filled_shard:FilledShard.begin")
FINISH_SHARD = Seam("engine.lanes.filled_shard:FilledShard.finish")
TOLD_BY_AGENT = Seam("wire.agents:from_agent_to_wire")
HEARD_BY_AGENT = Seam("wire.agents:from_coordinator_from_wire")
TOLD_BY_COORDINATOR = Seam("wire.agents:from_coordinator_to_wire")
HEARD_BY_COORDINATOR = Seam("wire.agents:from_agent_from_wire")
