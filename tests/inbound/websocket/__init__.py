"""WebSockets, over real sockets in this process."""
