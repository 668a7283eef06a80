"""MLServer: a custom runtime behind its pool of inference workers."""
