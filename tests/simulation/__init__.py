"""Many hosts in one thread: real state machines and the real catalog, on a clock and a network that a seed decides."""
