"""FastAPI under uvicorn: what most people write first."""
