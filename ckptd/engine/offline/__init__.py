"""Work on checkpoints that no save takes part in: copy, place, repair, remove, take over."""
