"""What tools/docs needs beside the site generator."""
