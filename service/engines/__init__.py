"""Engines: they run batches. One protocol; a runtime is loaded only if its engine is chosen."""
