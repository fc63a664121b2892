"""Convert nested Python state to named arrays and an outline of its nesting, and back. Imports no framework."""
