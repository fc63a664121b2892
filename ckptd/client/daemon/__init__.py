"""The transport to a daemon: connection, streams, shared memory."""
