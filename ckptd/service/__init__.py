"""The daemon's side of the wire: a method is convert, call, convert."""
