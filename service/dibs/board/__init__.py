"""The board: pages that show claims to people and follow their changes."""
