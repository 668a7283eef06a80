"""Build bundles from trained models and image folders. The service never imports this package."""
