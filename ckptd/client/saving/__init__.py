"""One save from `save` to its end, over any transport."""
