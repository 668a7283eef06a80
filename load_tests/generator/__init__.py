"""Load at a rate or by N clients, and what happened to each request."""
