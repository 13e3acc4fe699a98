"""The heart: what is stale and why, and making it."""
