"""Images kept for a person to look at, and what that person said of them."""
