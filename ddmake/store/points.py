"""The moments of a commit, by name. A kill between any two of them loses nothing and leaves nothing half-done.

`reached` does nothing; a test takes its place to stop the process there.
"""

POINTS = (
    "recipe done",  # what it made lies in scratch
    "objects kept",  # and as objects
    "trace committed",  # and is recorded, with where it is about to be put
    "old one moved away",  # nothing lies at the output's path
    "new one in place",  # it lies there, and the store doesn't say so yet
    "placed",  # the store says so; scratch is still there
)


def reached(point: str) -> None:
    """Mark that a commit has come so far."""
    assert point in POINTS
