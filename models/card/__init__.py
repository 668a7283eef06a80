"""MODEL_CARD.md of a bundle: what was measured, as text and pictures."""
