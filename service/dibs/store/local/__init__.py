"""The private store: its server, its directory, its log and its disk."""
