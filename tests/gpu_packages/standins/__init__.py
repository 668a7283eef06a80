"""Stand-ins for NVIDIA's libraries: the real CUDA provider of ONNX Runtime runs without a GPU.

True of it: which nodes are placed where, what is allocated, copied, waited for and captured, and
how errors are worded. Not true: results and durations.
"""
