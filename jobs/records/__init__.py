"""The records of a job and how they are stored."""
