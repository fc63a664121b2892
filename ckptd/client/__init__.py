"""The client: `Checkpointer`, the reader, and the functions around them."""
