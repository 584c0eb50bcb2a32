"""HTTP: parse, ask, answer. No rule of claims lives here."""
