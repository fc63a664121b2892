"""The page of a checkpoint over real directories, ours and TensorFlow's, without a daemon."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import numpy as np
import pytest
from starlette.testclient import TestClient

import ckptd
from ckptd.access.visits import Visitor
from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RankView, SaveView
from ckptd.storage.locations import open_store
from ckptd.web.application import Application
from ckptd.web.connection import CONNECTION
from ckptd.web.directory_source import DirectorySource
from ckptd.web.host_names import HostNames
from ckptd.web.link_login import LinkLogin, LinkPorter
from ckptd.web.looks import ValueReader
from ckptd.web.shelf import Shelf
from ckptd.web.site import Site
from tests.conformance.bundle_files import FIXTURES

TOKEN = "the-token"
SIGNED_IN = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/html"}
HOSTILE = ("<script>alert(1)</script>/w", "a\u202eb", "a\nb", "x" * 100_000, "{{7*7}}", "'; rm -rf $HOME #", '"><b>')


class Origin:
    peer, is_encrypted, common_names, alternative_names = "ipv4:127.0.0.1:1", False, (), ()


def client_of(directory, label="d", headers=SIGNED_IN, porter=None):
    names = HostNames([])
    site = Site(DirectorySource(open_store(str(directory), confined=False), label))
    application = LinkLogin(
        Application(porter or LinkPorter(TOKEN), names, site.routes, site.shell), names, TOKEN, 7080
    )

    async def answer(scope, receive, send):
        await application({**scope, CONNECTION: Origin()}, receive, send)

    return TestClient(answer, base_url="http://127.0.0.1:7080", headers=headers, follow_redirects=False)


def url(step=1, part="", label="d"):
    return f"/runs/{label}/checkpoints/m-{step}{part}"


def text_of(answer):
    assert answer.status_code == 200, answer.text[:500]
    return html.unescape(re.sub(r"<[^>]*>", " ", answer.text))


def test_the_tree_leads_to_a_tensor_its_figures_its_place_and_its_code(tmp_path):
    kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
    ckptd.save_checkpoint(
        f"{tmp_path}/m-1", {"layer/1/kernel": kernel, "layer/1/bias": np.zeros(4), "step": np.int64(7)}
    )
    client = client_of(tmp_path)
    run = client.get("/")
    assert 'href="/runs/d/checkpoints/m-1"' in run.text
    top = client.get(url())
    assert "layer/1/" in text_of(top)
    inside = re.search(r'href="([^"]*under=layer[^"]*)"', top.text)
    assert inside
    level = client.get(html.unescape(inside[1]))
    link = re.search(r'href="([^"]*name=layer%2F1%2Fkernel)"', level.text)
    assert link
    tensor = text_of(client.get(html.unescape(link[1])))
    for told in ("float32", "3 × 4", "m-1.data-00000-of-00001", "tf.train.load_variable", "jnp.asarray", "ckptd cat"):
        assert told in tensor
    values = text_of(client.get(html.unescape(link[1]) + "&values=1"))
    for told in ("5.5", "3.45205", "Histogram", "Along the tensor"):
        assert told in values


def test_what_changed_is_told_by_sums_and_by_values(tmp_path):
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {"same": np.ones(5), "w": np.zeros(5), "gone": np.ones(1)})
    ckptd.save_checkpoint(f"{tmp_path}/m-2", {"same": np.ones(5), "w": np.array([0, 0, 0, 3, 4.0]), "new": np.ones(1)})
    client = client_of(tmp_path)
    page = text_of(client.get(url(2, "?against=m-1")))
    for told in ("1 same", "1 changed", "1 added", "1 removed"):
        assert told in page
    removed = client.get(url(2, "?against=m-1&only=removed")).text
    assert "/runs/d/checkpoints/m-1/tensor?name=gone" in removed
    told = client.get("/api/v1" + url(2, "/tensor/values?name=w&against=m-1")).json()["difference"]
    assert told == {
        "is_sampled": False,
        "num_elements": 5,
        "num_different": 2,
        "num_nan": 0,
        "max_abs": 4.0,
        "rms": 5**0.5,
    }
    assert "m-1 has no such tensor" in text_of(client.get(url(2, "/tensor/values?name=new&against=m-1")))


def test_ten_thousand_tensors_are_a_hundred_a_page_within_the_budget(tmp_path):
    arrays = {f"layer_{n // 10}/w{n % 10}": np.zeros(2, np.float32) for n in range(10_000)}
    ckptd.save_checkpoint(f"{tmp_path}/m-1", arrays)
    client = client_of(tmp_path)
    first = client.get(url())
    assert first.text.count('<th scope="row">') == 100
    for part in ("", "?flat=1&page=99", "?q=w7&sort=size&desc=1", "?under=layer_77/", "?page=9"):
        page = client.get(url(1, part))
        assert page.status_code == 200
        assert len(page.content) < 100_000
    names = re.findall(r"layer_\d+/w9</a>", client.get(url(1, "?flat=1&page=99")).text)
    assert "page 100 of 100" in text_of(client.get(url(1, "?flat=1&page=99")))
    assert len(names) == 10
    document = client.get("/api/v1" + url(1, "?q=w7&page=2")).json()
    assert (document["num_tensors"], document["num_found"], len(document["tensors"])) == (10_000, 1000, 100)


def test_hostile_names_are_inert_and_their_tensors_are_found(tmp_path):
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {name: np.ones(3) for name in HOSTILE})
    client = client_of(tmp_path)
    page = client.get(url(1, "?flat=1")).text
    links = [html.unescape(each) for each in re.findall(r'href="([^"]*/tensor\?[^"]*)"', page)]
    assert len(links) == len(HOSTILE)
    pages = [page, *(client.get(link).text for link in links), *(client.get(link + "&values=1").text for link in links)]
    for each in pages:
        assert "<script>alert" not in each
        assert "<b>" not in each.replace('<b aria-current="page">', "")
        assert "\u202e" not in re.sub('value="[^"]*"', "", each)
        assert len(each) < 40_000
    assert all("Histogram" in each for each in pages[1 + len(links) :])


@pytest.mark.parametrize("name", ["dtypes", "strings", "partitioned_grid", "object_based"])
def test_checkpoints_that_tensorflow_wrote_are_shown(name):
    client = client_of(FIXTURES / "tf" / name)
    runs = client.get("/api/v1/runs").json()["runs"]
    listed = client.get(f"/api/v1/runs/{runs[0]}/checkpoints").json()["checkpoints"]
    at = f"runs/{runs[0]}/checkpoints/{listed[0]['name']}"
    tensors = client.get(f"/api/v1/{at}").json()["tensors"]
    assert tensors
    assert client.get(f"/{at}").status_code == 200
    for tensor in tensors:
        assert tensor["problem"] is None
        assert client.get(f"/{at}/tensor?at={tensor['at']}&values=1").status_code == 200
        seen = client.get(f"/api/v1/{at}/tensor/values?at={tensor['at']}").json()
        assert seen["problem"] is None
        figures = seen["numbers"] or seen["strings"]
        assert (figures.get("statistics") or figures)["count"] == int(np.prod(tensor["shape"]))


def test_damage_is_shown_as_damage(tmp_path):
    for step in (1, 2, 3):
        ckptd.save_checkpoint(f"{tmp_path}/m-{step}", {"w": np.ones(100)})
    (tmp_path / "m-1.index").write_bytes(b"no index at all")
    (tmp_path / "m-2.data-00000-of-00001").unlink()
    (tmp_path / "m-3.data-00000-of-00001").write_bytes(b"\0" * 800)
    client = client_of(tmp_path)
    run = text_of(client.get("/"))
    assert [f'href="{url(step)}"' in client.get("/").text for step in (1, 2, 3)] == [True, True, True]
    assert "its index cannot be" in run
    assert "shard m-2.data-00000-of-00001 is missing" in run
    assert "index cannot be" in text_of(client.get(url(1)))
    assert client.get("/api/v1" + url(1)).status_code == 422
    assert "is missing" in text_of(client.get(url(2)))
    assert "missing" in text_of(client.get(url(2, "/tensor/values?name=w")))
    assert "checksum" in text_of(client.get(url(3, "/tensor/values?name=w")))
    (tmp_path / "checkpoint").write_bytes(b"\xff\xff no state")
    assert client_of(tmp_path).get("/").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/runs/d/checkpoints/m-9", 404),
        ("/runs/nobody/checkpoints/m-1", 404),
        ("/runs/d/checkpoints/m-1/tensor?name=nobody", 404),
        ("/runs/d/checkpoints/m-1/tensor?at=77", 404),
        ("/runs/d/checkpoints/m-1/tensor?at=-1", 400),
        ("/runs/d/checkpoints/m-1/tensor", 404),
        ("/runs/d/checkpoints/m-1?page=x", 400),
        ("/runs/d/checkpoints/m-1?sort=fate", 400),
        ("/runs/d/checkpoints/m-1?against=nobody", 404),
        (f"/runs/d/checkpoints/m-1?q={'x' * 2000}", 400),
        ("/runs/../../etc/checkpoints/m-1", 404),
        ("/runs/d%2F..%2F..%2Fetc/checkpoints/passwd", 404),
        ("/api/v1/runs/nobody/checkpoints", 404),
    ],
)
def test_wrong_addresses_are_refused_with_a_word_why(tmp_path, path, status):
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {"w": np.ones(3)})
    answer = client_of(tmp_path).get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


def test_a_newer_checkpoint_is_shown_without_a_restart(tmp_path):
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {"w": np.ones(3)})
    now = [0.0]
    source = DirectorySource(open_store(str(tmp_path), confined=False), "d", lambda: now[0])
    assert [each.step for each in source.run("d").checkpoints] == [1]
    ckptd.save_checkpoint(f"{tmp_path}/m-2", {"w": np.ones(3)})
    ckptd.save_checkpoint(f"{tmp_path}/below/m-7", {"w": np.ones(3)})
    now[0] = 60.0
    assert [each.step for each in source.run("d").checkpoints] == [1, 2]
    assert source.names() == ["d", "d/below"]
    shelf = Shelf(source)
    assert [row.name for row in shelf.tensors(shelf.find("d", "m-2")).rows] == ["w"]
    ckptd.save_checkpoint(f"{tmp_path}/other/m-2", {"v": np.ones(3)})
    for path in (tmp_path / "other").glob("m-2*"):
        path.replace(tmp_path / path.name)
    assert [row.name for row in shelf.tensors(shelf.find("d", "m-2")).rows] == ["v"]


def test_only_the_link_lets_a_browser_in(tmp_path):
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {"w": np.ones(3)})
    client = client_of(tmp_path, headers={"Accept": "text/html"})
    refused = client.get("/")
    assert refused.status_code == 401
    assert "by the link that `ckptd ui` printed" in html.unescape(refused.text)
    assert client.get("/?token=wrong").status_code == 401
    assert client.get(f"/?token={TOKEN}", headers={"Host": "evil.example"}).status_code == 421
    signed = client.get(f"{url()}?flat=1&token={TOKEN}")
    assert (signed.status_code, signed.headers["location"]) == (303, f"{url()}?flat=1")
    cookie = signed.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert client.get(url()).status_code == 200
    assert client.get(url(), headers={"Host": "evil.example"}).status_code == 421
    assert client.get(f"//evil.example/?token={TOKEN}").headers["location"] == "/"


def test_a_visitor_gets_nothing_of_a_run_that_it_may_not_read(tmp_path):
    ckptd.save_checkpoint(f"{tmp_path}/a/m-1", {"w": np.ones(3)})
    ckptd.save_checkpoint(f"{tmp_path}/b/m-1", {"secret": np.ones(3)})

    class OnlyA(LinkPorter):
        async def admit(self, visit):
            return Visitor((await super().admit(visit)).caller, lambda run: run == "d/a", False)

    client = client_of(tmp_path, porter=OnlyA(TOKEN))
    assert client.get("/api/v1/runs").json() == {"runs": ["d/a"], "num_runs": 1}
    assert client.get("/runs/d/a/checkpoints/m-1").status_code == 200
    for part in ("", "/m-1", "/m-1/tensor?name=secret", "/m-1/tensor/values?name=secret"):
        for path in (f"/api/v1/runs/d/b/checkpoints{part}", f"/runs/d/b/checkpoints{part}"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert "float64" not in answer.text


def test_no_values_are_read_while_a_save_is_written_and_they_come_once_it_is_not(tmp_path):
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {"w": np.ones(3)})
    ranks = (RankView(0, True, 5, 10, idle_s=0.1), RankView(1, True, 10, 10))
    save = SaveView(SaveRef("d", 1, 2, "id", 1), Phase.FILLING, 20, 15, 1.0, (), (), frozenset(), 0, ranks)

    class Live(DirectorySource):
        is_live = True
        saves: tuple[SaveView, ...] = (save,)

        def runs(self):
            return [replace(self.run("d"), saves=self.saves)]

    source = Live(open_store(str(tmp_path), confined=False), "d")
    shelf = Shelf(source)
    reader = ValueReader(shelf)
    later = reader.at(shelf.find("d", "m-1"), "w", None)
    assert later.is_later
    assert later.numbers is None
    assert "a save is being written" in later.problem
    hung = replace(save, ranks=(replace(ranks[0], idle_s=60.0), ranks[1]))  # it may hang for an hour
    for saves in ((hung,), (replace(save, phase=Phase.DECLARING),), ()):
        source.saves = saves
        assert reader.at(shelf.find("d", "m-1"), "w", None).numbers is not None
    reader.close()


def test_what_is_in_no_local_directory_is_shown_as_well():
    ckptd.save_checkpoint("memory://shown/runs/a/m-1", {"layer/w": np.arange(4)})
    source = DirectorySource(open_store("memory://shown", confined=False), "shown")
    assert source.names() == ["shown/runs/a"]
    shelf = Shelf(source)
    found = shelf.find("shown/runs/a", "m-1")
    assert found.prefix.startswith("memory://")
    reader = ValueReader(shelf)
    seen = reader.at(found, "layer/w", None)
    reader.close()
    assert seen.numbers is not None
    assert seen.numbers.statistics.mean == 1.5
