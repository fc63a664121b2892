"""From arrays to bytes that a save may keep: what there is, how it lies in memory, copies, sums."""
