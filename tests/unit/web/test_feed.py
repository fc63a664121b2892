"""The stream of events of a page, over a real listener: what comes, what is not repeated, and how it ends."""

from __future__ import annotations

import http.client
import logging
from contextlib import contextmanager

import pytest

from ckptd.web.application import Application, visit_of
from ckptd.web.connection import ConnectionBounds
from ckptd.web.host_names import HostNames
from ckptd.web.listener import Listener, bind
from ckptd.web.recent import RecentPast
from ckptd.web.site import Site
from ckptd.wire import addresses
from tests.fakes.waiting import eventually, never
from tests.unit.web.test_pages import FakeSource, Porter, checkpoint, run


class CountingSource(FakeSource):
    num_looks = 0

    def run(self, name):
        self.num_looks += 1
        return super().run(name)


class Followed:
    def __init__(self, **bounds):
        self.source, self.recent, porter = CountingSource([run("runs/a", (checkpoint(100),))]), RecentPast(), Porter()

        async def look_again(request):
            return await porter.admit(visit_of(request))

        self.site = Site(self.source, self.recent, look_again=look_again)
        listening, self.address = bind(addresses.parse_http("127.0.0.1:0"))
        application = Application(porter, HostNames([]), self.site.routes, self.site.shell)
        self.listener = Listener(application, listening, bounds=ConnectionBounds(**bounds))
        self.listener.start()

    @contextmanager
    def stream(self, path="/events?run=runs/a", token="good", after=None):
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=60)
        headers = {"Authorization": f"Bearer {token}"} | ({} if after is None else {"Last-Event-ID": after})
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            yield answer if answer.status != 200 else events_of(answer)
        finally:
            connection.close()

    def say(self, text, run="runs/a"):
        record = logging.LogRecord("ckptd.engine", logging.INFO, "", 1, text, None, None)
        record.ckptd = {"run": run}
        self.recent.note(record)

    def stop(self):
        self.site.close()
        self.listener.stop()


def events_of(answer):
    """Yield (name, data, id) of each event, until the stream ends."""
    told = {}
    for line in iter(answer.readline, b""):
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if not name:
            if "event" in told:
                yield told["event"], told.get("data", ""), told.get("id", "")
            told = {}
        else:
            told[name] = f"{told[name]}\n{value}" if name == "data" and name in told else value


def until(events, name):
    return next(each for each in events if each[0] == name)


@pytest.fixture
def followed():
    running = Followed()
    yield running
    running.stop()


def test_what_changes_comes_rendered_and_nothing_comes_again(followed):
    with followed.stream() as events:
        assert "model.ckpt-100" in until(events, "checkpoints")[1]
        followed.source.views = [run("runs/a", (checkpoint(100), checkpoint(200)))]
        assert "model.ckpt-200" in until(events, "checkpoints")[1]
        followed.say("saved something")
        assert "saved something" in until(events, "log")[1]
        _, _, last = until(events, "beat")
    followed.say("while nobody looked")
    with followed.stream(after=last) as events:
        said = until(events, "log")[1]
    assert ("while nobody looked" in said, "saved something" in said) == (True, False)
    with followed.stream(after="another-life.5.1") as events:
        assert "saved something" in until(events, "log")[1]


def test_the_end_of_a_daemon_ends_every_stream_with_a_word(followed):
    with followed.stream() as one, followed.stream() as two:
        until(one, "beat"), until(two, "beat")
        followed.site.close()
        for events in (one, two):
            assert until(events, "bye")[1] == "the daemon ends"
            assert list(events) == []


def test_a_stream_outlives_the_time_of_an_answer_while_its_client_takes_what_comes():
    followed = Followed(answer_s=1.5)
    try:
        with followed.stream() as events:
            assert [until(events, "beat")[0] for _ in range(4)] == ["beat"] * 4
    finally:
        followed.stop()


def test_without_a_viewer_nothing_is_looked_at(followed):
    with followed.stream() as events:
        until(events, "beat")
    eventually(lambda: not followed.site.feed.num_streams, "the end of the stream")
    before = followed.source.num_looks
    never(lambda: followed.source.num_looks > before, within_s=0.6)


def test_a_visitor_follows_what_it_may_read_and_no_lines_of_others(followed):
    followed.say("of another", run="runs/b")
    followed.say("of the daemon", run="")
    followed.say("of mine")
    with followed.stream(token="a") as events:
        said = until(events, "log")[1]
    assert [text in said for text in ("of mine", "of another", "of the daemon")] == [True, False, False]
    with followed.stream("/events?run=runs/b", token="a") as refused:
        assert refused.status == 404
