"""The client's room: `Checkpointer`, the reader, and the functions around them."""
