"""What a folder of bundles serves: the repository, the serving file and changes to it."""
