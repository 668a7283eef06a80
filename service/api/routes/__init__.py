"""The routes: what each one accepts and returns."""
