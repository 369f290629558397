"""The parts of tools/bench: nothing here imports the router, so that any server can be measured."""
