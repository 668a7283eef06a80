"""The part of CUDA that the engines need, through either of two Python bindings."""
