"""What watches the router, in memory."""
