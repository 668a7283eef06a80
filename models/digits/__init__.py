"""The fully fitted example: a small CNN on handwritten digits, and images that are none.

`images` makes the folders, `network` trains, `model` puts both into the pipeline's hands.
"""
