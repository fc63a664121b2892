"""From the path or URL that a user writes to an existing checkpoint."""
