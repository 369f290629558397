"""The picker's door: Envoy carries the bytes, and asks here where to."""
