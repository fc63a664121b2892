"""Several JAX processes train one Flax model on the handwritten digits, and checkpoint through one daemon.

    ckptd serve --root /tmp/checkpoints &
    python examples/train_jax.py --workers 4

Kill it and run it again: it continues from the newest checkpoint, also with another number of workers. The processes
form one `jax.distributed` job on this host's processors; weights and optimizer are spread over them, so that each saves
and restores what it holds. With one worker a path will do instead of a daemon's address. What belongs to ckptd is in
`train`; it needs jax, flax, optax and scikit-learn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import socket

import flax.nnx as nnx
import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

import ckptd.jax

BATCH, HELD_BACK = 96, 357
ADAM = optax.adamw(3e-3)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(64, 192, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(192, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.out(self.drop(nnx.relu(self.hidden(images))))


def new_state() -> dict:
    """Return everything that training changes. Its random numbers are part of it, so that they continue, too."""
    net = Net(nnx.Rngs(0))
    return {"net": nnx.state(net), "optimizer": ADAM.init(nnx.state(net, nnx.Param)), "key": jax.random.key(1)}


def spread(leaf: jax.ShapeDtypeStruct, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Spread a leaf over the workers along its first dimension, if that can be divided."""
    divides = leaf.ndim > 0 and leaf.shape[0] % mesh.size == 0
    sharding = NamedSharding(mesh, PartitionSpec("workers") if divides else PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def train(address: str, run: str, steps: int, save_every: int) -> None:
    mesh = Mesh(np.array(jax.devices()), ("workers",))
    everywhere, over_workers = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("workers"))
    images, labels, test_images, test_labels = (
        jax.make_array_from_callback(array.shape, everywhere, lambda index, array=array: array[index])
        for array in digits()
    )
    net = nnx.graphdef(Net(nnx.Rngs(0)))
    target = jax.tree.map(lambda leaf: spread(leaf, mesh), jax.eval_shape(new_state))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target)

    def one_step(state: dict, images: jax.Array, labels: jax.Array) -> tuple[dict, jax.Array]:
        model = nnx.merge(net, state["net"])
        key, now = jax.random.split(state["key"])
        chosen = jax.random.randint(now, (BATCH,), 0, len(labels))
        batch = jax.lax.with_sharding_constraint(images[chosen], over_workers)

        def loss_of(model: Net) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(batch), labels[chosen]).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        params = nnx.state(model, nnx.Param)
        updates, optimizer = ADAM.update(gradients, state["optimizer"], params)
        nnx.update(model, optax.apply_updates(params, updates))
        return {"net": nnx.state(model), "optimizer": optimizer, "key": key}, loss

    one_step = jax.jit(one_step, donate_argnums=0, out_shardings=(shardings, everywhere))

    with ckptd.jax.CheckpointManager(address, run=run, max_to_keep=3, save_interval_steps=save_every) as manager:
        step = manager.latest_step()
        if step is None:
            step, state = 0, jax.jit(new_state, out_shardings=shardings)()
        else:
            state = manager.restore(step, target)
            say(f"continues at step {step}")
        while step < steps:
            state, loss = one_step(state, images, labels)
            step += 1
            if manager.save(step, state):  # the arrays may be donated to the next step at once
                say(f"step {step}: loss {loss:.3f}")
        manager.wait_until_finished()
        newest = manager.latest_step()

    @jax.jit
    def accuracy(state: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
        model = nnx.merge(net, state["net"])
        model.eval()
        return (model(images).argmax(-1) == labels).mean()

    say(f"accuracy {accuracy(state, test_images, test_labels):.3f}, newest step {newest}")


def digits() -> list[np.ndarray]:
    """Return images and labels to train on, and those held back, always the same."""
    loaded = load_digits()
    images, labels = np.asarray(loaded.data, np.float32) / 16, np.asarray(loaded.target, np.int32)
    order = np.random.default_rng(20).permutation(len(labels))
    test, training = order[:HELD_BACK], order[HELD_BACK:]
    return [images[training], labels[training], images[test], labels[test]]


def say(text: str) -> None:
    print(f"worker {jax.process_index()} of {jax.process_count()}: {text}", flush=True)


def work(rank: int, world_size: int, meeting: str, args: argparse.Namespace) -> None:
    jax.config.update("jax_platforms", "cpu")
    if world_size > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(meeting, num_processes=world_size, process_id=rank)
    train(args.address, args.run, args.steps, args.save_every)
    if world_size > 1:
        jax.distributed.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.environ.get("CKPTD_ADDRESS", "unix://")
    place = "of the daemon, or for one worker a directory; default: CKPTD_ADDRESS, or this host's daemon"
    parser.add_argument("address", nargs="?", default=here, help=place)
    parser.add_argument("--run", default="examples/jax")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--save-every", type=int, default=50)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"

    processes = multiprocessing.get_context("spawn")  # a process that has used JAX must not be forked
    workers = [processes.Process(target=work, args=(rank, args.workers, meeting, args)) for rank in range(args.workers)]
    for worker in workers:
        worker.start()
    waiting = {worker.sentinel: worker for worker in workers}
    while waiting:
        for sentinel in multiprocessing.connection.wait(list(waiting)):
            ended = waiting.pop(sentinel)
            ended.join()
            if ended.exitcode:  # the others would wait for it in vain
                for worker in waiting.values():
                    worker.kill()
    raise SystemExit(max(abs(worker.exitcode) for worker in workers))


if __name__ == "__main__":
    main()
