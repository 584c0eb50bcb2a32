"""Connections to a server, to the primary behind Sentinels, or to a cluster: bytes and failures."""
