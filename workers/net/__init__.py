"""HTTP on behalf of users: bounded, and guarded against private addresses."""
