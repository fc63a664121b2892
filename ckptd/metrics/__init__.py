"""What a daemon measures of itself, for Prometheus: figures, what moves them, and how they are shown."""
