"""The transport of direct mode: the engine runs in this process."""
