"""Reading and rewriting ONNX graphs, for every step that needs it."""
