"""Several processes train one network on handwritten digits, and checkpoint it together through one daemon.

    ckptd serve --root /tmp/checkpoints &
    python examples/train_tensorflow.py --workers 2

Kill it whenever you like, all of it or one worker, and run it again: it continues from the newest checkpoint, and ends
with the very weights that it would have had. TensorFlow's MultiWorkerMirroredStrategy averages the gradients. What
belongs to ckptd is one line: `ckptd.tensorflow.CheckpointManager` instead of `tf.train.CheckpointManager`. Each worker
saves; what they all hold is written once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import subprocess
import sys

CLASSES, PIXELS, HIDDEN, BATCH = 10, 64, 32, 64


def train(address: str, run: str, rank: int, world_size: int, steps: int, save_every: int) -> None:
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_digits

    import ckptd.tensorflow

    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # reads the list of processes from TF_CONFIG
    digits = load_digits()
    images, labels = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)

    step = tf.Variable(0, dtype=tf.int64, name="step")
    with strategy.scope():
        shapes = {"w1": (PIXELS, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
        first = np.random.default_rng(0)
        weights = {
            name: tf.Variable(first.normal(0, 0.1, shape).astype(np.float32), name=name)
            for name, shape in shapes.items()
        }
        speeds = {
            name: tf.Variable(np.zeros(shape, np.float32), name=f"{name}_speed") for name, shape in shapes.items()
        }

    @tf.function
    def train_one_step(x, y):
        def on_this_worker(x, y):
            with tf.GradientTape() as tape:
                hidden = tf.nn.relu(x @ weights["w1"] + weights["b1"])
                logits = hidden @ weights["w2"] + weights["b2"]
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
                loss = tf.reduce_sum(losses) / BATCH
            gradients = tape.gradient(loss, list(weights.values()))
            sums = tf.distribute.get_replica_context().all_reduce("sum", [loss, *gradients])
            for name, gradient in zip(weights, sums[1:], strict=True):
                speeds[name].assign(0.9 * speeds[name] + gradient)
                weights[name].assign_sub(0.2 * speeds[name])
            return sums[0]

        return strategy.run(on_this_worker, (x, y))

    checkpoint = tf.train.Checkpoint(step=step, weights=weights, speeds=speeds)
    with ckptd.tensorflow.CheckpointManager(
        checkpoint, run, max_to_keep=3, address=address, rank=rank, world_size=world_size
    ) as manager:
        if manager.restore_or_initialize():
            print(f"worker {rank} of {world_size} continues at step {int(step)}", flush=True)
        while int(step) < steps:
            # Every worker draws the same batch, which the step alone decides, and takes its part of it.
            batch = np.random.default_rng(int(step)).choice(len(images), BATCH, replace=False)[rank::world_size]
            loss = train_one_step(tf.constant(images[batch]), tf.constant(labels[batch]))
            step.assign_add(1)
            if int(step) % save_every == 0:
                manager.save(checkpoint_number=int(step), wait=False)  # training continues at once
                print(f"worker {rank} of {world_size}: step {int(step)}, loss {float(loss):.4f}", flush=True)
        manager.sync()
        newest = manager.latest_checkpoint
    hidden = np.maximum(images @ weights["w1"].numpy() + weights["b1"].numpy(), 0)
    accuracy = np.mean((hidden @ weights["w2"].numpy() + weights["b2"].numpy()).argmax(1) == labels)
    digest = hashlib.sha256(b"".join(one.numpy().tobytes() for one in weights.values())).hexdigest()[:12]
    print(f"worker {rank} of {world_size}: accuracy {accuracy:.3f}, weights {digest}, newest {newest}", flush=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.environ.get("CKPTD_ADDRESS", "unix://")
    parser.add_argument("address", nargs="?", default=here, help="the daemon's; default: CKPTD_ADDRESS or this host's")
    parser.add_argument("--run", default="examples/digits")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--save-every", type=int, default=50)
    args = parser.parse_args()

    if "RANK" in os.environ:  # one of several that something else has started, with TF_CONFIG
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        train(args.address, args.run, rank, world_size, args.steps, args.save_every)
        return

    workers = [f"127.0.0.1:{port}" for port in free_ports(args.workers)]
    processes = []
    for rank in range(args.workers):
        cluster = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
        environment = {"RANK": str(rank), "WORLD_SIZE": str(args.workers), "TF_CONFIG": json.dumps(cluster)}
        processes.append(subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, **environment}))
    codes = []
    try:
        for process in processes:
            codes.append(process.wait())
            if codes[-1]:
                break  # the others would wait for it
    finally:
        for process in processes:
            process.kill()
    raise SystemExit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
