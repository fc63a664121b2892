"""``python -m tests.fuzz.feeding TARGET SECONDS``: feed one decoder, or ``all``, until the time is over.

With atheris, which the test extra installs where there are wheels of it, inputs are led by which lines they reach.
Without it they are changed at random, from a seed that is printed.
"""

from __future__ import annotations

import contextlib
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

SECONDS_OF_ONE = 10  # for a single input; a decoder takes milliseconds
MEMORY_MB = 2048


def main(name: str, seconds: int) -> None:
    """Feed the target of this name."""
    try:
        import atheris
    except ImportError:
        at_random(name, seconds)
        return
    with atheris.instrument_imports(include=["ckptd"]):
        from tests.fuzz.targets import ALL, TARGETS
    from ckptd.errors import CkptdError

    target = ALL if name == "all" else TARGETS[name]

    def take(data: bytes) -> None:
        with contextlib.suppress(CkptdError):
            target.take(data)

    # libFuzzer looks at the high-water mark, which a process inherits from the one that started it.
    memory_mb = MEMORY_MB + (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", f"-timeout={SECONDS_OF_ONE}", f"-rss_limit_mb={memory_mb}"]
        atheris.Setup([sys.argv[0], corpus, "-max_len=65536", f"-artifact_prefix={corpus}/", *limits], take)
        atheris.Fuzz()


def at_random(name: str, seconds: int) -> None:
    """Change sound inputs at random, without anything to lead them."""
    from ckptd.errors import CkptdError
    from tests.fuzz.targets import ALL, TARGETS

    target, seed = ALL if name == "all" else TARGETS[name], random.SystemRandom().getrandbits(32)
    print(f"no atheris here: at random, from seed {seed}")
    dice = random.Random(seed)
    until, runs = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        data = changed(dice.choice(target.seeds), dice)
        began = time.thread_time()
        try:
            with contextlib.suppress(CkptdError):
                target.take(data)
        except BaseException:
            print(f"input: {data!r}")
            raise
        assert time.thread_time() - began < SECONDS_OF_ONE, f"too slow: {data!r}"
        runs += 1
    print(f"Done {runs} runs")


def changed(data: bytes, dice: random.Random) -> bytes:
    """Return bytes with a few places overwritten, taken out, doubled or filled."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        at = dice.randint(0, len(out))
        match dice.randint(0, 4):
            case 0 if at < len(out):
                out[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randint(0, 255)))
            case 1:
                del out[at : at + dice.randint(1, 8)]
            case 2:
                out[at:at] = out[at : at + dice.randint(1, 64)]
            case 3:
                out[at:at] = dice.randbytes(dice.randint(1, 12))
            case _:
                out[at:at] = dice.choice((b"\xff" * 9, b"9" * 40, b"[" * 100, b'"', b"\0" * 8, b"\\"))
    return bytes(out)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
