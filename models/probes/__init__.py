"""Images that prove preprocessing and that every bundle is probed with."""
