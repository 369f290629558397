"""Bus: one connection to a D-Bus message bus, for whoever reads, calls or serves on it.

Law: nothing of ours is imported, and nothing of jeepney's is seen outside, so that who uses a bus
sees values alone. What comes from a bus is foreign: its type is looked at before it is used.
"""
