"""Every block of code in the README and in docs/ is run here, as it stands there; `pages` tells how."""

from __future__ import annotations

import pytest

from tests.e2e import pages
from tests.e2e.pages import PAGES, Reader

NOT_RUN = {
    ("README.md", "pip install '.[demo]' && ckptd demo"),
    ("docs/index.md", "pip install '.[demo]' && ckptd demo"),
    ("docs/first-steps.md", "pip install '.[demo]'"),
    ("docs/testing.md", "pip install -e '.[test]' && pytest"),
    ("docs/testing.md", "pytest"),
    ("docs/testing.md", "pytest -m campaign"),
    ("docs/testing.md", "pip install zensical && zensical build --strict"),
    ("docs/reliability.md", "pytest tests/simulation"),
    ("docs/torch.md", 'torch.save(state, "checkpoint.pt")'),
    ("docs/torch.md", 'with ckptd.Checkpointer(address, "runs/torch", rank=rank, world_size=world_size) as ckpt:'),
    ("docs/checkpoint-page.md", "$ ckptd ui /checkpoints"),
    ("docs/shared-memory.md", "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"),
    ("docs/performance.md", "python -m venv /tmp/peers"),
    ("docs/performance.md", "python benchmarks/hosts.py coordinator --check"),
    ("docs/performance.md", "python benchmarks/interference.py --dir /mnt/disk"),
    ("docs/performance.md", "python benchmarks/many_workers.py"),
    ("docs/many-hosts.md", "#SBATCH --nodes=8 --ntasks-per-node=1 --signal=TERM@120"),
    ("docs/many-hosts.md", "# On the first host; on the others the same without --first."),
    ("docs/many-hosts.md", "# Once, where all hosts reach it."),
    (
        "docs/many-hosts.md",
        "# Once; agents as before, with the same directory as --root, at whatever path it is mounted on each host.",
    ),
    ("docs/deploying.md", "cp .env.example .env && docker compose --profile demo up"),
    ("docs/deploying.md", "docker compose exec ckptd ckptd ls s3://checkpoints/runs/examples/linear"),
    ("docs/deploying.md", "docker compose -f docker-compose.yml -f deploy/compose.ceph.yml --profile demo up"),
    ("docs/deploying.md", "docker compose -f docker-compose.yml -f deploy/compose.elsewhere.yml up"),
    (
        "docs/deploying.md",
        "docker compose -f docker-compose.yml -f deploy/compose.monitoring.yml --profile demo --profile monitoring up",
    ),
    ("docs/deploying.md", "docker build -f deploy/Dockerfile -t ckptd ."),
    ("docs/deploying.md", "kubectl create namespace ckptd"),
    ("docs/deploying.md", "deploy/try_compose"),
    ("docs/deploying.md", "docker compose -f docker-compose.yml -f deploy/compose.hosts.yml --profile demo up"),
    ("docs/deploying.md", "cp deploy/systemd/ckptd.sysusers.conf /usr/lib/sysusers.d/ckptd.conf && systemd-sysusers"),
    ("docs/deploying.md", "kubectl create namespace ckptd-hosts && kubectl create namespace ckptd-agents"),
    ("docs/deploying.md", "deploy/try_hosts"),
    ("docs/buckets.md", "export AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…"),
}
"""Installing, the tests themselves, gigabytes, containers, buckets: `.ci/run` and tests with a real S3 do those."""

BROUGHT = {
    "README.md": """
import numpy as np

state = {"w": np.zeros((1000, 64), np.float32), "step": np.array(0)}

def train_one_step(state):
    state["w"] += 1
""",
    "index.md": """
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

step, model, params = 1, torch.nn.Linear(2, 2), {"w": jnp.arange(3.0)}
checkpoint, arrays = tf.train.Checkpoint(w=tf.Variable([1.0, 2.0])), {"w": np.arange(4.0)}
""",
}
"""What a reader of a page has already, in Python: the training program that the lines are for."""

BROUGHT["events.md"] = """
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np

from tests.fakes import loggers

logged = loggers.install(sys.modules)
posted = []

class Slack(BaseHTTPRequestHandler):
    def do_POST(self):
        posted.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

slack = HTTPServer(("127.0.0.1", 0), Slack)
threading.Thread(target=slack.serve_forever, daemon=True).start()
state, hook = {"w": np.arange(4.0)}, f"http://127.0.0.1:{slack.server_port}/services/T/B/x"
"""

LEFT = {
    "README.md": """
assert state["step"] == 1000
assert (state["w"] == 1000).all()
""",
    "index.md": """
import ckptd

ckptd.torch.close_all()
manager.close()
runs = {"torch": "model/weight", "numpy": "w"}
assert all(ckptd.load_checkpoint(f"/tmp/checkpoints/{run}").has_tensor(name) for run, name in runs.items())
assert np.array_equal(ckptd.jax.CheckpointManager("/tmp/checkpoints/jax").restore(1)["w"], params["w"])
assert ckptd.latest_checkpoint("/tmp/checkpoints/tf") == "/tmp/checkpoints/tf/ckpt-1"
""",
    "tour.md": """
import numpy as np

assert np.array_equal(w, np.repeat(1000.0 * np.arange(4), 250)[:, None] * np.ones(64))
assert np.array_equal(part, w[:333])
assert np.array_equal(same, w)
""",
    "watching.md": "trainer.close()",
    "events.md": """
assert [call[1]["ckptd/step"] for call in logged if call[0] == "log"] == [3]
assert ("define_metric", "ckptd/*", "ckptd/step") in logged
assert ("the id of the run", "ckptd/failed", 0.0) in [call[:3] for call in logged]
assert not posted
from ckptd.events import Slow
slow = Slow(run="runs/a", rank=0, world_size=2, step=7, at=0.0, waited_s=30.0, waiting_for="rank 1")
to_slack(slow)
to_wandb(slow)
assert posted == [b'{"text": "step 7 of runs/a is under way for 30 s and waits for rank 1"}']
assert logged[-1] == ("alert", "checkpoint slow", "step 7 of runs/a is under way for 30 s and waits for rank 1")
slack.shutdown()
slack.server_close()
""",
    "torch.md": "ckptd.torch.close_all()\nwriter.close()",
}
"""What must hold when a page has been followed, beyond that nothing failed."""


def prepare(page, reader):
    """Give the reader what a page takes for granted."""
    exec(BROUGHT.get(page.name, ""), reader.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(pages.REPOSITORY).as_posix())
def test_a_page_can_be_followed_from_top_to_bottom(page, tmp_path):
    to_run = [block for block in pages.blocks(page) if block.language in pages.PROGRAMS and not block.left_out]
    if not to_run:
        return
    with Reader(page, tmp_path) as reader:
        prepare(page, reader)
        for block in to_run:
            said = reader.run(block)
            if said is not None:
                hint = f"{block.where}: python -m tests.e2e.pages writes what the commands say now"
                assert pages.masked(block.code) == pages.masked(said), hint
        exec(reader.adapted(LEFT.get(page.name, "")), reader.names)


def test_a_block_says_what_it_is():
    for page in PAGES:
        for block in pages.blocks(page):
            assert block.language in (*pages.PROGRAMS, *pages.OTHERS), f"{block.where}: {block.language!r}"


def test_no_fence_is_overlooked():
    for page in PAGES:
        fences = [line for line in page.read_text("utf-8").split("\n") if line.lstrip().startswith(("```", "~~~"))]
        assert len(fences) == 2 * len(pages.blocks(page)), page.name


def test_the_blocks_that_are_left_out_are_these_and_no_others():
    assert {block.key for page in PAGES for block in pages.blocks(page) if block.left_out} == NOT_RUN
