"""Byte strings that nobody would write by hand, for everything that decodes bytes of others."""
