"""Images kept for human review, and the labels from feedback."""
