"""LitServe: a FastAPI front end, and workers behind a multiprocessing queue."""
