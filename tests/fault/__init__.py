"""Hostile surroundings: what the router promises under fault, of the real process. The table is docs/reliability.md."""
