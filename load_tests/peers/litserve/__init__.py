"""LitServe: FastAPI in front, workers behind a multiprocessing queue."""
