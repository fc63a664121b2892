"""From the caller's arrays to bytes that a save owns: inventory, memory layout, copies, checksums."""
