"""mosec: a Rust front, Python workers, batches formed in Rust."""
