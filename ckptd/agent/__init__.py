"""One host's agent: it writes what the ranks of its host save, and a coordinator elsewhere plans and commits."""
