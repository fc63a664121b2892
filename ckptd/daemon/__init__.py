"""The daemon: joins the rooms together and is the only one that looks at the world around it."""
