"""Policy: every decision of the router, as functions from values to values.

Law: no trio, no clock (`now` is an argument), no logging, no files. What users will argue about
lives here, so that it can be read without knowing Trio, tested with literals, and replayed.
"""
