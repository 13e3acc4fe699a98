"""Sharing a workspace: bundles of it, and what differs between two. Nothing of what others packed is executed."""
