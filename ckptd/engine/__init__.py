"""What a checkpoint is and how one comes to be: plan, session, commit, recovery, retention, reading."""
