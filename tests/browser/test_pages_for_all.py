"""The pages for everyone: without scripts, by keyboard, for readers of screens, dark and light, narrow, and large."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RankView
from ckptd.web.application import Application, visit_of
from ckptd.web.host_names import HostNames
from ckptd.web.listener import Listener, bind
from ckptd.web.recent import RecentPast
from ckptd.web.site import Site
from ckptd.wire import addresses
from tests.browser.chromium import PHONE
from tests.browser.conftest import Daemon
from tests.unit.web.test_pages import FakeSource, Porter, checkpoint, run, save

NUM_TENSORS = 10_000
MOST_BYTES = 150_000
PAGES = {
    "run": "/runs/runs/mnist",
    "checkpoint": "/runs/runs/mnist/checkpoints/model.ckpt-300?against=model.ckpt-200",
    "tensor": "/runs/runs/mnist/checkpoints/model.ckpt-300/tensor?name=layer_1%2Fkernel",
    "damaged": "/runs/runs/mnist/checkpoints/model.ckpt-100",
    "large": "/runs/runs/large/checkpoints/model.ckpt-1?flat=1",
    "missing": "/runs/runs/nobody",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon over a run with a damaged checkpoint, and one with many tensors."""
    directory = tmp_path_factory.mktemp("pages")
    daemon = Daemon(directory)
    many = {f"block_{n // 100}/layer_{n // 10 % 10}/w{n % 10}": np.ones(2, np.float32) for n in range(NUM_TENSORS)}
    with ckptd.Checkpointer(daemon.socket, run="runs/large", rank=0, world_size=1) as checkpointer:
        checkpointer.save(1, many).result(60)
    generator = np.random.default_rng(7)
    with ckptd.Checkpointer(daemon.socket, run="runs/mnist", rank=0, world_size=1) as checkpointer:
        for step in (100, 200, 300):
            kernel = generator.normal(size=(64, 48)).astype(np.float32)
            kernel[40, :3] = np.nan, np.inf, 0
            state = {"layer_1/kernel": kernel, "layer_1/bias": np.zeros(48, np.float32), "step": np.int64(step)}
            checkpointer.save(step, state).result(60)
        checkpointer.pin(200)
    (directory / "root" / "runs" / "mnist" / "model.ckpt-100.index").write_bytes(b"no index at all")
    yield daemon
    daemon.process.end()


@pytest.fixture(scope="module")
def signed_in(daemon, browser):
    """Return the address of the site, and what a context needs to be signed in there."""
    link = daemon.link()
    with browser.visit() as tab:
        tab.page.goto(link)
        cookies = tab.page.context.storage_state()
    return link.partition("/login")[0], cookies


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_shuts_people_out_on_any_page(signed_in, browser, scheme):
    site, cookies = signed_in
    with browser.visit(storage_state=cookies, color_scheme=scheme) as tab:
        found = {}
        for name, path in PAGES.items():
            tab.page.goto(site + path)
            if name == "tensor":
                tab.page.get_by_text("Along the tensor").wait_for()
            if name == "run":
                tab.page.get_by_role("status").get_by_text("live").wait_for()
            tab.picture(f"{name}-{scheme}")
            found[name] = tab.barriers()
        assert {name: each for name, each in found.items() if each} == {}
        tab.complaints = [each for each in tab.complaints if "404" not in each]


def test_no_page_is_wider_than_a_phone(signed_in, browser):
    site, cookies = signed_in
    with browser.visit(storage_state=cookies, viewport=PHONE) as tab:
        wide = {}
        for name, path in PAGES.items():
            tab.page.goto(site + path)
            if name == "tensor":
                tab.page.get_by_text("Along the tensor").wait_for()
            tab.picture(f"{name}-375px")
            wide[name] = tab.overflow_px()
        assert {name: each for name, each in wide.items() if each > 0} == {}
        tab.complaints = [each for each in tab.complaints if "404" not in each]


# Where an element is in the document: parts of the page that come anew have it at the same place.
PLACE = """const place = (each) => each.parentElement
  ? `${place(each.parentElement)}/${[...each.parentElement.children].indexOf(each)}` : "";"""
# What the keyboard can be on, unless it is hidden.
REACHABLE = f"""() => {{ {PLACE} return [...document.querySelectorAll(
    "a[href], button, input:not([type=hidden]), select, summary, [tabindex='0']")]
  .filter((each) => each.checkVisibility()).map(place); }}"""
# Where it is, and whether that can be seen.
FOCUSED = f"""() => {{ {PLACE} const each = document.activeElement;
  const style = getComputedStyle(each), box = each.getBoundingClientRect();
  return [place(each), each === document.body || style.outlineStyle !== "none"
    && parseFloat(style.outlineWidth) >= 1 && box.right > 0 && box.bottom > 0, each.outerHTML.slice(0, 200)]; }}"""


@pytest.mark.parametrize("name", ["run", "checkpoint", "tensor"])
def test_the_keyboard_reaches_everything_and_it_is_seen_where_it_is(signed_in, browser, name):
    site, cookies = signed_in
    with browser.visit(storage_state=cookies) as tab:
        page = tab.page
        page.goto(site + PAGES[name])
        page.locator("#theme").wait_for()
        if name == "tensor":
            page.get_by_text("Along the tensor").wait_for()
        wanted = set(page.evaluate(REACHABLE))
        reached, unseen = set(), []
        for _ in range(len(wanted) + 3):
            page.keyboard.press("Tab")
            where, is_seen, what = page.evaluate(FOCUSED)
            reached.add(where)
            if not is_seen:
                unseen.append(what)
        assert len(wanted) > 8
        assert wanted <= reached
        assert unseen == []


def test_without_scripts_the_first_paint_has_the_runs_and_their_checkpoints(signed_in, browser):
    site, cookies = signed_in
    with browser.visit(storage_state=cookies, java_script_enabled=False) as tab:
        page = tab.page
        page.goto(f"{site}{PAGES['run']}", wait_until="commit")
        page.get_by_role("row").get_by_role("link", name="model.ckpt-300").wait_for()
        assert page.get_by_label("Run").locator("option").all_inner_texts() == ["runs/large", "runs/mnist"]
        page.get_by_label("Run").select_option("runs/large")
        page.get_by_role("button", name="Show").click()
        page.get_by_role("row").get_by_role("link", name="model.ckpt-1").wait_for()
        page.goto(f"{site}{PAGES['tensor']}")
        page.get_by_role("link", name="Read the values").click()
        page.get_by_text("Along the tensor").wait_for()


@pytest.fixture
def thousand_ranks():
    """The address of a page with a save of a thousand ranks, of which one is missing."""
    ranks = [RankView(rank, rank != 777, rank * 10, 10_000, host=f"node-{rank // 8}") for rank in range(1000)]
    view = run(
        "runs/large",
        tuple(checkpoint(step, run="runs/large") for step in range(100)),
        [save(7, ranks, phase=Phase.DECLARING, waiting_for=["rank 777 of 1000 to declare"])],
    )
    porter = Porter()

    async def look_again(request):
        return await porter.admit(visit_of(request))

    site = Site(FakeSource([view]), RecentPast(), look_again=look_again)
    listening, address = bind(addresses.parse_http("127.0.0.1:0"))
    listener = Listener(Application(porter, HostNames([]), site.routes, site.shell), listening)
    listener.start()
    yield f"http://127.0.0.1:{address.port}"
    site.close()
    listener.stop()


def test_a_thousand_ranks_fit_a_phone_and_150_kb(thousand_ranks, browser):
    with browser.visit(extra_http_headers={"Authorization": "Bearer good"}, viewport=PHONE) as tab:
        tab.count_bytes()
        tab.page.goto(thousand_ranks)
        tab.page.get_by_role("status").get_by_text("live").wait_for()
        tab.page.get_by_role("img", name="1000 ranks: 1 have not declared").wait_for()
        assert tab.page.locator("svg.grid rect").count() == 1000
        assert tab.overflow_px() <= 0
        tab.picture("thousand-ranks-375px")
        print(f"{tab.received_bytes} bytes")
        assert 10_000 < tab.received_bytes < MOST_BYTES


def test_ten_thousand_tensors_come_a_hundred_a_page_within_150_kb(signed_in, browser):
    site, cookies = signed_in
    with browser.visit(storage_state=cookies, viewport=PHONE) as tab:
        tab.count_bytes()
        tab.page.goto(site + PAGES["large"])
        tab.page.get_by_text("page 1 of 100").wait_for()
        assert tab.page.locator("table.tensors tbody tr").count() == 100
        assert tab.overflow_px() <= 0
        print(f"{tab.received_bytes} bytes")
        assert 1_000 < tab.received_bytes < MOST_BYTES
