"""One file a method; each is a `Strategy`."""
