"""The HTTP interface: protocol, routes, request bodies and responses."""
