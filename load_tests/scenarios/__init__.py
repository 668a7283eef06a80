"""Named situations that a server should bear, each with what it should show."""
