"""Restoring: compare what is requested with what is stored, and fall back when that is damaged."""
