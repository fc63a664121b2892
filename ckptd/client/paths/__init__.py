"""From what a user writes, a path or a URL, to a checkpoint that is there."""
