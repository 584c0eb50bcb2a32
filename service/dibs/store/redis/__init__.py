"""Bytes and failures: connections to one server, to Sentinels' primary, to a cluster. No claims."""
