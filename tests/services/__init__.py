"""Real servers for the tests, and what stands in front of them."""
