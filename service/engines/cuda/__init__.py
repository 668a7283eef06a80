"""The few things of CUDA the engines need, by either of two bindings."""
