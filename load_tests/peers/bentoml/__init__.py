"""BentoML: services under circus and uvicorn, with an adaptive batcher."""
