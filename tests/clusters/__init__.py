"""Tests on real local clusters of Ray, Spark and Dask: `make test-clusters`."""
