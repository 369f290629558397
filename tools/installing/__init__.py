"""Installing for one user: runs before anything is installed, so with the standard library alone."""
