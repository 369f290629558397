"""Envoy's configuration, without an Envoy: what it says, and that it is read as it was meant."""
