"""Examples to copy: what a user of Retouch runs on their own side."""
