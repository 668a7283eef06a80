"""One module per format: it reads the sizes from the header and estimates the decoding cost."""
