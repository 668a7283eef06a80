"""Other protocols on the same road: each dialect translates requests and answers, nothing else."""
