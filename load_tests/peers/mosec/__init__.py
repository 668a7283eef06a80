"""mosec: a Rust front end that forms batches, and Python workers."""
