"""What front ends bring: one process against one and two front ends, with a fake engine."""
