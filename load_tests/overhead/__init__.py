"""What an addition to a server costs: the same load with and without it, interleaved."""
