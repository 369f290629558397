"""Backends: translation outward, one file a dialect.

Law: policy and trio are all this room may import. A backend knows nothing of doors, jobs or lines;
it makes one call and gives the answer's bytes to whoever it was told to (`backend.Sink`).

`server` makes the calls, over `wire` (pooled HTTP/1.1) on the hot path and httpx off it; `pump`
moves the bytes of streams that pass unchanged; `translate` turns one dialect into the other.
"""
