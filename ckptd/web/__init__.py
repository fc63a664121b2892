"""What a daemon serves over HTTP: its health and its metrics, read-only."""
