"""The plan: which job starts when. Every state change of a job is one Lua script."""
