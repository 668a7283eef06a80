"""Admission, the queue, batch forming, and the threads that decode and run batches."""
