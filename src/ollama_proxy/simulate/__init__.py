"""Simulate: what the router would do, in virtual time, against modelled backends.

Law: the dispatcher, the stations, the climate and the policy are the real ones, unchanged; only
time, backends, sensors and callers are models. No trio task runs here. (A second implementation of
the policy, written to be fast, was the alternative: it would be right about itself.)
"""
