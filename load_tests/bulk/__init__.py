"""`tidegate classify` on a large set: its images, jobs that are killed, the service's answers."""
