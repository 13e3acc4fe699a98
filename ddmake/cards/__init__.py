"""Cards: the lineage of an artifact, as JSON and as a README for the Hub."""
