"""The report: what lies in a project as one HTML page that needs no network."""
