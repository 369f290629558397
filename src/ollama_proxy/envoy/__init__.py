"""What Envoy is told so that it carries the bytes and we decide: a configuration made from ours.

Everything here is a pure function of our configuration, except `command`, which reads and prints.
"""
