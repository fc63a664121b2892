"""Work on checkpoints outside of any save: copy, place, repair, remove, take over."""
