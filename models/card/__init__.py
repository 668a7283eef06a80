"""MODEL_CARD.md of a bundle: its measurements as text and plots."""
