"""What a GPU shows of the engines, measured and written down with all that it was measured on."""
