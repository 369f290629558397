"""What two routers say to each other to be paired, and what they keep of it."""
