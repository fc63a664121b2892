"""The demonstration: real workers train a real model, one dies in the middle of a save, and nothing is lost.

`story` tells it and checks every claim; `crew` starts and ends the processes; `worker` is what each of them runs,
with `network` for the mathematics, `peers` for the exchange of gradients and `fingerprint` for comparing states.
"""
