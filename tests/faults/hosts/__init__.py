"""Hosts that are namespaces of their own, whose processes, links and stores fail."""
