"""GNOME Shell of several releases, for tests: each in a root of its own, made once and kept."""
