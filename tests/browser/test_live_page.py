"""The page of a real daemon in a real browser: what it tells while things happen, and when the daemon is gone."""

from __future__ import annotations

import signal
from urllib.parse import urlsplit

import numpy as np

import ckptd
from tests.browser.chromium import DESK, PHONE

STATE = {"w": np.arange(24, dtype=np.float32).reshape(4, 6)}


def save(daemon, *steps, run="runs/mnist", state=None, **more):
    with ckptd.Checkpointer(daemon.socket, run=run, rank=0, world_size=1, **more) as checkpointer:
        for step in steps:
            checkpointer.save(step, STATE if state is None else state).result(60)


def origin(link):
    return f"http://{urlsplit(link).netloc}"


def test_the_badge_is_live_then_lost_and_live_again_with_the_next_daemon_without_a_reload(daemons, browser):
    daemon = daemons()
    save(daemon, 100)
    link = daemon.link()
    with browser.visit() as tab:
        page = tab.page
        page.goto(link)
        badge = page.get_by_role("status")
        badge.get_by_text("live").wait_for()
        page.evaluate("window.wasNotLoadedAgain = true")
        tab.lose_the_daemon()
        daemon.process.process.kill()
        badge.get_by_text("lost").wait_for()
        assert tab.barriers() == []
        tab.picture("lost")
        again = daemons(http=urlsplit(link).netloc, name="again")
        badge.get_by_text("live").wait_for()
        save(again, 200)
        page.get_by_role("row").get_by_role("link", name="model.ckpt-200").wait_for()
        assert page.evaluate("window.wasNotLoadedAgain")


def test_a_page_without_a_run_becomes_the_page_of_the_first_one(daemons, browser):
    daemon = daemons()
    with browser.visit() as tab:
        tab.page.goto(daemon.link())
        tab.page.get_by_text("No run yet").wait_for()
        save(daemon, 1)
        tab.page.get_by_role("row").get_by_role("link", name="model.ckpt-1").wait_for()
        tab.page.get_by_role("status").get_by_text("live").wait_for()


def test_a_daemon_that_is_told_to_end_ends_while_tabs_are_open_and_they_say_so(daemons, browser):
    daemon = daemons()
    save(daemon, 100)
    with browser.visit() as one, browser.visit() as other:
        for tab in (one, other):
            tab.page.goto(daemon.link())
            tab.page.get_by_role("status").get_by_text("live").wait_for()
            tab.lose_the_daemon()
        daemon.process.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait() == 0
        for tab in (one, other):
            tab.page.get_by_role("status").get_by_text("lost").wait_for()


def test_a_rank_that_hangs_is_named_with_the_command_that_frees_its_place(daemons, browser):
    daemon = daemons()
    first = ckptd.Checkpointer(daemon.socket, run="runs/mnist", rank=0, world_size=2)
    second = ckptd.Checkpointer(daemon.socket, run="runs/mnist", rank=1, world_size=2)
    with first, second, browser.visit() as tab:
        pending = [each.save(1, STATE) for each in (first, second)]
        assert [each.result(60).step for each in pending] == [1, 1]
        page = tab.page
        page.goto(daemon.link())
        page.get_by_text("No save is under way").wait_for()
        waits = first.save(2, STATE)
        now = page.get_by_role("region", name="Now")
        now.get_by_text("waits for rank 1 of 2").wait_for()
        now.get_by_text("ckptd evict runs/mnist --rank 1").wait_for()
        tab.picture("hang-light")
        page.set_viewport_size(PHONE)
        assert tab.overflow_px() <= 0
        tab.picture("hang-375px")
        page.set_viewport_size(DESK)
        page.emulate_media(color_scheme="dark")
        assert tab.barriers() == []
        tab.picture("hang-dark")
        second.save(2, STATE).result(60)
        assert waits.result(60).step == 2
        page.get_by_text("No save is under way").wait_for()
        page.get_by_role("row").get_by_role("link", name="model.ckpt-2").wait_for()


HOSTILE = (
    "<script>alert(1)</script>/w",
    "<img src=x onerror=alert(2)>",
    "\"><b onmouseover='alert(3)'>",
    "javascript:alert(4)",
    "a\u202eb",
    "a\nb",
    "'; alert(5) //",
    "{{7*7}}",
)
RUN = "runs/{{7-7}} javascript:alert(6), [a=b] @c"  # as far as names of runs go


def test_hostile_names_of_runs_and_tensors_do_nothing_and_are_shown_as_they_are(daemons, browser):
    daemon = daemons()
    save(daemon, 1, 2, run=RUN, state={name: np.ones(3) for name in HOSTILE})
    with browser.visit() as tab:
        page = tab.page
        page.goto(daemon.link())
        page.get_by_role("status").get_by_text("live").wait_for()
        assert page.get_by_label("Run").input_value() == RUN
        page.get_by_role("row").get_by_role("link", name="model.ckpt-2").click()
        listed = page.get_by_role("link", name="as a list")
        listed.click()
        page.get_by_role("link", name="as a tree").wait_for()
        rows = page.locator("table.tensors tbody th a")
        assert rows.count() == len(HOSTILE)
        assert "<script>alert(1)</script>/w" in rows.all_inner_texts()
        links = [f"{origin(page.url)}{each.get_attribute('href')}" for each in rows.all()]
        for link in links:
            page.goto(link)
            page.get_by_text("Along the tensor").wait_for()
            page.locator("h1").hover()
        for injected in ("script:not([src])", "img", "b[onmouseover]"):
            assert page.locator(injected).count() == 0
