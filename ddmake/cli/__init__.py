"""The command line: every printed line comes from here."""
