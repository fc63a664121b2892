"""One save from `save` to its end, whichever transport carries it."""
