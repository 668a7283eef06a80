"""A light HTTP client, and the images that it sends."""
