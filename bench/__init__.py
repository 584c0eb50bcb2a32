"""How fast dibs is beside what a team would use instead: see docs/performance.md."""
