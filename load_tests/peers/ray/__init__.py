"""Ray Serve: an HTTP proxy actor in front of replica actors."""
