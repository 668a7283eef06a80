"""FastAPI under uvicorn: the most common simple implementation."""
