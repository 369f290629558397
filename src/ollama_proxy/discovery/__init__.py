"""Discovery: who else is there, as lists, DNS, Kubernetes and Avahi tell it.

Law: each source says to its `Report` which nodes it lists now, or that it is lost; it decides nothing
and knows no backend. What it hears is foreign: it is bounded and looked at before it is believed.
"""
