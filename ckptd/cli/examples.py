"""The examples at the end of each command's help: lines to copy, in the order in which people need them."""

from __future__ import annotations

import click

_RUN = "/checkpoints/runs/mnist"

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "serve": (
        ("ckptd serve --root /checkpoints", "on the user's socket"),
        ("ckptd serve --root /checkpoints --listen unix:///run/ckptd/ckptd.sock", "on one socket only"),
        ("ckptd serve --root /checkpoints --tokens tokens.json --policy policy.toml", "for several teams"),
        ("ckptd serve --root s3://b/ckpts --role coordinator --listen unix:///run/ckptd/c.sock", "of many hosts"),
        ("ckptd serve --root s3://b/ckpts --role agent", "on each host, for the ranks there"),
        ("CKPTD_ROOT=/checkpoints ckptd serve --print-config", "what would be used, and why"),
    ),
    "run": (
        ("ckptd run --root /tmp/checkpoints -- python train.py", "on one node"),
        (
            "srun --ntasks-per-node=1 ckptd run --root s3://bucket/ckpts --job-dir ~/job -- torchrun … train.py",
            "on the nodes of a SLURM job",
        ),
    ),
    "demo": (
        ("ckptd demo", "everything in action, in less than a minute"),
        ("ckptd demo --watch", "on a live page, until Ctrl-C"),
        ("ckptd demo --workers 8 --dir /tmp/demo", "keep what it saved, to look around"),
        ("ckptd demo --hosts 3", "agents of three hosts and a coordinator, each killed in its turn"),
    ),
    "ls": (
        (f"ckptd ls {_RUN}", "one line per checkpoint"),
        ("ckptd ls runs/mnist --address unix://", "of a daemon's run, without access to its files"),
        (f"ckptd ls {_RUN} --json | jq -r '.checkpoints[].step'", "their steps, for a script"),
    ),
    "show": (
        (f"ckptd show {_RUN}", "the latest one's tensors and shards"),
        (f"ckptd show {_RUN}/model.ckpt-120 --stats", "with min, max, mean and NaNs"),
        (f"ckptd show {_RUN}/model.ckpt-120 dense/kernel --plot", "a histogram of one tensor"),
        (f"ckptd show {_RUN}/model.ckpt-120 --layout", "where every slice lies"),
    ),
    "cat": (
        (f"ckptd cat {_RUN}/model.ckpt-120 dense/bias", "the values, as numpy prints them"),
        (f"ckptd cat {_RUN}/model.ckpt-120 dense/kernel --slice 0,10:-", "the first ten rows"),
        (f"ckptd cat {_RUN} step --json | jq '.tensors[0].values'", "one number, for a script"),
    ),
    "ui": (
        ("ckptd ui", "the checkpoints in and below the current directory"),
        (f"ckptd ui {_RUN}/model.ckpt-120", "one checkpoint"),
        ("ckptd ui s3://bucket/runs --no-browser", "a bucket, and the link only"),
    ),
    "inspect": (
        (f"ckptd inspect {_RUN}/model.ckpt-120 --all_tensor_names", "names, dtypes and shapes"),
        (f"ckptd inspect --file_name={_RUN}/model.ckpt-120 --tensor_name=w", "as TensorFlow's tool is called"),
        (f"ckptd inspect {_RUN}/model.ckpt-120 --all_tensors --printoptions precision=3", "as numpy would print them"),
    ),
    "freeze": (
        (f"ckptd freeze {_RUN}/model.ckpt-120 mnist.pb --outputs softmax", "what this operation needs, and its values"),
        (f"ckptd freeze {_RUN} mnist.pb --outputs logits,softmax --force", "of the latest, replacing a file"),
    ),
    "verify": (
        (f"ckptd verify {_RUN}", "every checkpoint of a run"),
        (f"ckptd verify {_RUN}/model.ckpt-120 && echo sound", "exit code 8 if it is damaged"),
        (f"ckptd verify {_RUN} --progress json 2> progress.jsonl", "how far it is, for a script"),
    ),
    "latest": (
        (f"ckptd latest {_RUN}", "its prefix"),
        (f"ckptd show $(ckptd latest {_RUN})", "in other commands"),
    ),
    "status": (
        ("ckptd status", "of the local daemon"),
        ("ckptd status --watch", "until Ctrl-C, with a bar for each rank"),
        ("ckptd status grpcs://trainer-0:7070 --ca ca.pem --token-file token", "of another host's"),
    ),
    "history": (
        ("ckptd history runs/mnist", "of a run of the local daemon"),
        (f"ckptd history {_RUN} --most 0", "all that is kept, without a daemon"),
        ("ckptd history runs/mnist --json | jq '.saves[] | select(.outcome != \"committed\")'", "what failed, and why"),
    ),
    "health": (
        ("ckptd health unix:///run/ckptd/ckptd.sock", "what a container engine runs every few seconds"),
        ("ckptd health && echo it serves", "of the local daemon"),
    ),
    "open": (
        ("ckptd open", "the page of this host's daemon"),
        ("ckptd open ckptd.example.org:7070 --token-file token --no-browser", "print the link alone"),
    ),
    "evict": (
        ("ckptd evict runs/mnist --rank 3", "of the local daemon, the one that hangs"),
        ("ckptd evict runs/mnist --address unix:///run/ckptd/ckptd.sock", "all of its ranks"),
    ),
    "token": (
        ("ckptd token new vision --tokens tokens.json --expires 90d --out vision.token", "for one team"),
        ("ckptd token list --tokens tokens.json", "which there are, and when they end"),
        ("ckptd token revoke vision --tokens tokens.json", "no call with it passes from now on"),
    ),
    "policy": (
        ("ckptd policy check new.toml && mv new.toml policy.toml", "before a daemon reads it"),
        ("ckptd policy check policy.toml --run vision/released/resnet", "which identity may do what there"),
    ),
    "certs": (
        ("ckptd certs trainer-0 10.0.0.5 --client vision", "all that a first set-up needs, in certs/"),
        ("ckptd certs --client audio", "one more client, signed by the same authority"),
    ),
    "prune": (
        (f"ckptd prune {_RUN} --keep 3 --dry-run", "what would go, and why the others stay"),
        (f"ckptd prune {_RUN} --keep 3 --keep-every-hours 24", "the newest three, and one a day"),
        ("ckptd prune /old/tf-run --keep 1 --foreign", "also what TensorFlow wrote"),
    ),
    "pin": (
        (f"ckptd pin {_RUN}/model.ckpt-120", "keep it, whatever retention says"),
        ("ckptd pin runs/mnist/model.ckpt-120 --address unix://", "by this host's daemon"),
    ),
    "unpin": ((f"ckptd unpin {_RUN}/model.ckpt-120", "retention may delete it again"),),
    "rm": (
        (f"ckptd rm {_RUN}/model.ckpt-120", "one checkpoint, if it is not the latest"),
        (f"ckptd rm {_RUN}/model.ckpt-200 --even-latest", "roll back to the one before"),
        ("ckptd rm /old/tf-run/model.ckpt-7 --foreign", "one that TensorFlow wrote"),
    ),
    "undelete": (
        (f"ckptd undelete {_RUN}/model.ckpt-120", "after a deletion too many"),
        ("ckptd undelete runs/mnist/model.ckpt-120 --address unix://", "by this host's daemon"),
    ),
    "repair": (
        (f"ckptd repair {_RUN}", "after its state file was lost"),
        (f"ckptd repair {_RUN} && ckptd verify {_RUN}", "and read everything back"),
    ),
    "watch": (
        (f"ckptd watch {_RUN} --exec 'python eval.py \"$CKPTD_PREFIX\"'", "evaluate each new checkpoint"),
        ("ckptd watch --run runs/mnist --json", "as a daemon publishes them, for a script"),
        (f"ckptd watch {_RUN} --once --timeout 600", "wait for one, at most ten minutes"),
    ),
    "doctor": (
        ("ckptd doctor /checkpoints", "before the first training job"),
        (
            "ckptd doctor /checkpoints --json | jq '.findings[] | select(.outcome != \"ok\")'",
            "everything that is not ok",
        ),
    ),
    "bench": (
        ("ckptd bench /checkpoints", "limits, and saves and restores by each transport"),
        ("ckptd bench /checkpoints --size-mb 2000", "with more bytes, for fast disks"),
    ),
    "completion": (
        ('eval "$(ckptd completion bash)"', "in ~/.bashrc"),
        ('eval "$(ckptd completion zsh)"', "in ~/.zshrc, after compinit"),
        ("ckptd completion fish > ~/.config/fish/completions/ckptd.fish", "once"),
    ),
    "schema": (
        ("ckptd schema", "the names of all schemas"),
        ("ckptd schema ls > ls.schema.json", "what ls --json promises"),
    ),
}


def add_to(name: str, command: click.Command) -> None:
    """End a command's help with its examples. Safe to repeat."""
    text = shown(name)
    if text and text not in (command.epilog or ""):
        command.epilog = "\n\n".join(part for part in (command.epilog, text) if part)


def shown(name: str) -> str:
    """Return the examples of a command as click takes them, "" if there are none."""
    lines = EXAMPLES.get(name, ())
    # "\b" keeps click from filling these lines like a paragraph.
    return "\n".join(("\b", "Examples:", *(f"  {line}\n      {about}" for line, about in lines))) if lines else ""
