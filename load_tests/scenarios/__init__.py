"""Named scenarios for a server, each with its aims."""
