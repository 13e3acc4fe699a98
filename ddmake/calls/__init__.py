"""The call layer: what a recipe asks goes through it to a backend, and every answer is kept."""
