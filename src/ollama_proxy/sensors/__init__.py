"""Sensors: the machine's state as facts, inward; unknown when unknown."""
