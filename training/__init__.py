"""Programs that make what the repository ships; never imported by the server."""
