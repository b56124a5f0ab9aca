"""Single jobs: submitting, reading, reusing equal edits, versions of outputs."""
