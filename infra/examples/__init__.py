"""Examples that users of Retouch can copy into their own systems."""
