"""Benchmarks of dibs against what a team would use instead: see docs/performance.md."""
