"""Comparison of the server with its peers and a bare loop, interleaved in one run."""
