"""What can be called: one file a service, and `asking` for those that end at the dispatcher."""
