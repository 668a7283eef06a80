"""What runs a batch. One protocol; runtimes load only when chosen."""
