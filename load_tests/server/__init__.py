"""A server under test: started, watched and ended, by its process id."""
