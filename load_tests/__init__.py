"""Load the service over HTTP and measure it; this package sees HTTP and nothing of the service."""
