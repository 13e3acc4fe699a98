"""Hashes of code, values and files by what they mean."""
