"""Agents on other hosts, as their coordinator sees them: what both tell each other, and which of it counts."""
