"""Which requests run, when and together: admission, the queue, the scheduler and its slots."""
