"""One attempt of an edit, step by step."""
