"""The routes: what each takes and answers."""
