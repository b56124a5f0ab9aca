"""How Retouch is run: the embedded stack, the simulator, measurements."""
