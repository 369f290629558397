"""Engine: who works on what, and until when.

Law: policy, trio and the Backend protocol are all this room may import; it parses nothing. It owns
the tasks, the deadlines and the only mutable state. In Trio the code between two checkpoints is
atomic, so `dispatcher` and `station` are plain objects with plain methods and need no lock.
"""
