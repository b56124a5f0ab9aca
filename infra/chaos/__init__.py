"""`make chaos`: parts are killed at random under load, and an audit follows."""
