"""Nested Python state ⇄ named arrays and an outline of how they nest. No framework is imported here."""
