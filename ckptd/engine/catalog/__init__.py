"""The checkpoints of one run as its files say them: records, state file, commit, retention, recovery."""
