"""The fully fitted example: a small CNN on handwritten digits, and images without digits.

`images` writes the folders, `network` trains, and `model` returns the model for the pipeline.
"""
