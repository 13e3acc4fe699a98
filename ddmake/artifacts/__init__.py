"""What lies at targets: rows, digests, views, the swap into place."""
