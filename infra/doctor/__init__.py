"""`retouch doctor`: checks of every part, and what to do about each fault."""
