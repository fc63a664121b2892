"""`Saver`, with the behaviour of `tf.train.Saver`."""
