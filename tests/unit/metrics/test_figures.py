"""Entries of the journal move figures; what is shown parses, is bounded in number, and is what a caller may read."""

from __future__ import annotations

import math

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from ckptd.engine.catalog.retention import DROPS, Why
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import SaveRef
from ckptd.engine.journal import Actor, JournalEntry, Journals, Measured
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RunView, SaveView
from ckptd.metrics.exposition import render
from ckptd.metrics.figures import Figures
from ckptd.metrics.seen import SeenFigures
from ckptd.metrics.told import ToldFigures

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
KNOWN = (Actor("token:a"),)
FORBIDDEN = {"rank", "step", "tensor", "peer", "save_id", "instance", "job"}


class Told:
    """Figures, and what is shown of them."""

    def __init__(self, runs=lambda: (), **more):
        self.figures = Figures(version="1.2", grpc="1.85", role="whole", store="file", **more)
        self.journal = ToldFigures(self.figures)
        self.figures.registry.register(SeenFigures(runs, self.figures.runs, wall_s=lambda: 1000.0))

    def tell(self, event, outcome="done", run="r", measured=None, actors=KNOWN, **details):
        told = None if measured is None else lambda: measured
        self.journal.ended(JournalEntry(event, outcome, run, actors=actors, details=details, measured=told))

    def text(self, accept="", may_read=lambda run: True, sees_all=True):
        return render(self.figures.registry, accept, may_read, sees_all=sees_all)[0].decode()

    def __getitem__(self, name):
        return {
            values_of(sample.labels): sample.value
            for family in parser.text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name
        }


def values_of(labels):
    """Return the values of labels: of the run and the verdict first, the others by their names."""
    return tuple(labels[name] for name in sorted(labels, key=lambda name: (name != "run", name != "verdict", name)))


def saved(seconds=2.0):
    phases = {"declare": 0.1, "plan": 0.2, "move": 1.0, "seal": 0.3, "commit": 0.3, "publish": 0.1}
    return Measured(500, seconds, phases, 0.4, {"shm": 400, "grpc": 100})


def view(run, *, saves=(), latest=None, checkpoints=(), quarantined="", damaged=()):
    return RunView(
        run, 1, 2, (0, 1), saves, latest, len(checkpoints), "", quarantined, (), damaged, checkpoints=checkpoints
    )


def test_all_that_is_shared_is_there_from_the_start_and_a_runs_own_from_its_first_event():
    told = Told()
    for name in ("ckptd_received_bytes_total", "ckptd_retention_decisions_total", "ckptd_auth_denied_total"):
        assert set(told[name].values()) == {0.0}
    assert len(told["ckptd_save_phase_duration_seconds_count"]) == 6
    told.tell("save", "committed", measured=saved())
    assert told["ckptd_saves_total"][("r", "aborted")] == 0.0


def test_a_committed_save_moves_its_figures():
    told = Told()
    told.tell("save", "committed", measured=saved(), save_id="s1")
    assert told["ckptd_saves_total"][("r", "committed")] == 1
    assert told["ckptd_save_duration_seconds_sum"][("r",)] == 2.0
    assert told["ckptd_save_phase_duration_seconds_sum"][("move",)] == 1.0
    assert told["ckptd_rank_lag_seconds_sum"][()] == 0.4
    assert told["ckptd_received_bytes_total"] == {("shm",): 400, ("grpc",): 100}
    assert told["ckptd_written_bytes_total"] == {("file",): 500}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("SessionAbortedError", "aborted"),
        ("NotPermittedError", "refused"),
        ("ConflictError", "refused"),
        ("StorageFullError", "failed"),
        ("UnavailableError", "failed"),
        ("CorruptionError", "failed"),
    ],
)
def test_one_that_came_to_nothing_is_never_counted_as_saved(error, outcome):
    told = Told()
    told.tell("save", "aborted", error=error, measured=saved())
    assert told["ckptd_saves_total"] == {
        (run, each): float((run, each) == ("r", outcome))
        for run in ("_other", "r")
        for each in ("committed", "aborted", "refused", "failed")
    }
    assert told["ckptd_save_duration_seconds_count"][("r",)] == 0
    assert told["ckptd_written_bytes_total"] == {("file",): 0}
    assert told["ckptd_checksum_failures_total"][("capture",)] == (error == "CorruptionError")


def test_what_retention_removes_by_its_reason_and_what_a_caller_was_refused():
    told = Told()
    told.tell("keep", measured=Measured(0, whys={"latest": 1, "newest": 2}))
    told.tell("remove", measured=Measured(7, whys={"too_many": 1}))
    told.tell("remove", measured=Measured(5, whys={"replaced": 1}))
    told.tell("remove", "failed", measured=Measured(9, whys={"too_many": 1}))
    counts = told["ckptd_retention_decisions_total"]
    assert {verdict: {reason for each, reason in counts if each == verdict} for verdict in ("keep", "drop")} == {
        "keep": {why.value for why in Why if why not in DROPS},
        "drop": {why.value for why in DROPS},
    }
    assert {key: count for key, count in counts.items() if count} == {
        ("keep", "latest"): 1,
        ("keep", "newest"): 2,
        ("drop", "too_many"): 1,
        ("drop", "replaced"): 1,
    }
    assert told["ckptd_deleted_bytes_total"][("r",)] == 12
    told.tell("refusal", "refused", actors=(Actor(""),), not_recorded=4)
    told.tell("refusal", "refused")
    told.tell("revoked")
    assert told["ckptd_auth_denied_total"] == {("unauthenticated",): 5, ("forbidden",): 1, ("revoked",): 1}
    told.tell("take-over", "lost to another owner")
    told.tell("evict", evicted=[{"rank": 0}, {"rank": 1}])
    assert told["ckptd_fenced_total"] == {("run_lost",): 1, ("run_taken_back",): 0, ("evicted",): 2}
    told.tell("quarantine")
    told.tell("misread")
    told.tell("save", "aborted", error="CorruptionError", measured=Measured(0, received_bytes={"grpc": 5}))
    assert told["ckptd_checksum_failures_total"] == {("disk",): 1, ("read",): 1, ("wire",): 1, ("capture",): 0}
    told.tell("verify", measured=Measured(9, tensors={"ok": 3, "corrupt": 1}))
    assert told["ckptd_verify_tensors_total"] == {("ok",): 3, ("corrupt",): 1}


def test_how_long_training_stood_still_by_its_parts():
    told = Told()
    told.tell("stall", measured=Measured(0, stall_s={"waiting": 2.0, "preparing": 0.1, "copying": 0.5, "declaring": 0}))
    assert told["ckptd_client_stall_seconds_count"] == {
        (part,): 1 for part in ("waiting", "preparing", "copying", "declaring")
    }
    assert told["ckptd_client_stall_seconds_sum"][("waiting",)] == 2.0


def test_what_is_only_begun_or_not_measured_moves_nothing_else():
    told = Told()
    before = told.text()
    for event in ("save", "remove", "quarantine", "evict", "delete"):
        told.tell(event, "begun", measured=saved())
        told.journal.begins(JournalEntry(event))
    told.tell("join")
    assert [line for line in told.text().splitlines() if line.startswith("ckptd")] == [
        line for line in before.splitlines() if line.startswith("ckptd")
    ]


def test_nothing_is_measured_where_nothing_takes_it():
    class Recording:
        complaint = "why"

        def __init__(self):
            self.entries = []

        def begins(self, entry):
            self.entries.append(entry)

        def ended(self, entry):
            self.entries.append(entry)

    first, told = Recording(), Told()
    both = Journals(first, told.journal)
    entry = JournalEntry("save", run="r")
    both.begins(entry)
    both.ended(entry.ended("committed", measured=saved))
    assert [each.outcome for each in first.entries] == ["begun", "committed"]
    assert told["ckptd_saves_total"][("r", "committed")] == 1
    assert both.complaint == "why"
    both.ended(JournalEntry("save", "committed", "r", is_recorded=False))
    assert len(first.entries) == 2
    assert told["ckptd_saves_total"][("r", "committed")] == 2


def test_a_scrape_shows_what_is_in_progress_and_stored_and_keeps_a_run_that_was_closed():
    save = SaveView(SaveRef("r", 1, 7), Phase.DECLARING, 0, 0, 12.0, (), (1, 3), frozenset())
    latest = Checkpoint("/r/m-6", 6, 100, 1, 990.0, pinned=True, verified_at=995.0)
    older = Checkpoint("/r/m-5", 5, 30, 1, 980.0)
    runs = [view("r", saves=(save,), latest=latest, checkpoints=(older, latest)), view("q", quarantined="damaged")]
    told = Told(lambda: runs)
    assert told["ckptd_saves_in_progress"] == {("r",): 1, ("q",): 0}
    assert told["ckptd_oldest_save_in_progress_start_timestamp_seconds"] == {("r",): 988.0}
    assert told["ckptd_ranks_waiting"][("r", "declare")] == 2
    assert told["ckptd_last_committed_timestamp_seconds"] == {("r",): 990.0}
    assert told["ckptd_last_committed_step"] == {("r",): 6}
    assert told["ckptd_last_verified_timestamp_seconds"] == {("r",): 995.0}
    assert told["ckptd_checkpoint_bytes"][("r", "pinned")] == 100
    assert told["ckptd_checkpoint_bytes"][("r", "kept")] == 30
    assert told["ckptd_quarantined_runs"] == {(): 1}
    runs.clear()
    assert told["ckptd_saves_in_progress"] == {("r",): 0, ("q",): 0}
    assert told["ckptd_last_committed_timestamp_seconds"] == {("r",): 990.0}


def test_a_caller_sees_the_runs_that_it_may_read_and_no_save_of_others():
    told = Told()
    for run in ("a/x", "b/y"):
        told.tell("save", "committed", run=run, measured=saved(), save_id=f"id-of-{run[0]}")
    shown = told.text(OPENMETRICS, lambda run: run.startswith("a/"), sees_all=False)
    assert 'run="a/x"' in shown
    assert "id-of-a" in shown
    assert "b/y" not in shown
    assert "id-of-b" not in shown
    assert "_other" not in shown
    assert 'ckptd_written_bytes_total{store="file"} 1000' in shown
    assert 'run="b/y"' in told.text(OPENMETRICS)


@pytest.mark.parametrize("run", ['a"b', "a\\b", "a\nb", "ü", "a{b}", "x" * 500])
def test_hostile_names_are_data_in_both_forms(run):
    told = Told()
    told.tell("save", "committed", run=run, measured=saved(), save_id="s")
    plain = list(parser.text_string_to_metric_families(told.text()))
    strict = list(openmetrics.text_string_to_metric_families(told.text(OPENMETRICS)))
    for families in (plain, strict):
        assert any(sample.labels.get("run") == run for family in families for sample in family.samples)


def test_the_form_is_what_the_request_prefers_and_examples_name_the_save():
    told = Told()
    told.tell("save", "committed", measured=saved(), save_id="5a4e")
    _, plain = render(told.figures.registry, "", lambda run: True, sees_all=True)
    text, strict = render(told.figures.registry, OPENMETRICS, lambda run: True, sees_all=True)
    assert plain.startswith("text/plain; version=0.0.4")
    assert strict.startswith("application/openmetrics-text")
    families = openmetrics.text_string_to_metric_families(text.decode())
    examples = {
        sample.name: sample.exemplar.labels for family in families for sample in family.samples if sample.exemplar
    }
    assert examples["ckptd_saves_total"] == examples["ckptd_save_duration_seconds_bucket"] == {"save_id": "5a4e"}


@pytest.mark.parametrize(("num_runs", "most"), [(1, 600), (200, 15_000), (1000, 15_000)])
def test_there_are_so_many_series_and_no_label_that_has_no_bound(num_runs, most):
    latest = Checkpoint("/r/m-6", 6, 100, 1, 990.0, verified_at=995.0)
    save = SaveView(SaveRef("r", 1, 7), Phase.FILLING, 0, 0, 12.0, (), (1, 3), frozenset())
    runs = [view(f"r{n}", saves=(save,), latest=latest, checkpoints=(latest,)) for n in range(num_runs)]
    told = Told(lambda: runs)
    for run in runs:
        told.tell("save", "committed", run=run.run, measured=saved())
    families = list(parser.text_string_to_metric_families(told.text()))
    ours = [sample for family in families for sample in family.samples if sample.name.startswith("ckptd_")]
    assert len(ours) < most
    labels = {label for sample in ours for label in sample.labels}
    assert not labels & FORBIDDEN
    assert labels <= {
        *("run", "role", "store", "path", "outcome", "phase", "reason", "verdict", "where", "state", "le"),
        *("version", "python", "grpc", "part", "op", "cause"),
    }
    assert all(family.documentation for family in families)
    total = sum(s.value for s in ours if s.name == "ckptd_saves_total" and math.isfinite(s.value))
    assert num_runs > 200 or total == num_runs
