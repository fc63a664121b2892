"""What a checkpoint is and how it is made: plan, session, commit, recovery, retention, reading."""
