"""Steps 7 to 9: seal the graph, run the golden probes, and write the bundle's folder."""
