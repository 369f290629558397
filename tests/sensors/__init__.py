"""Sensors, read in memory."""
