"""The door on the bus, without a bus."""
