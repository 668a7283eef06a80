"""Steps 7 to 9: the sealed graph, its golden probes, and the folder that holds them."""
