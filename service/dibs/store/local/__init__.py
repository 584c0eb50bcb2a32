"""The private store: its server, its directory, its log, its disk."""
