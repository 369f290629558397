"""What the router tells Prometheus: `requests` is fed as they end, `state` is asked at each scrape.

No thread, no task, no registry of the process: an object that can be rendered, and costs nothing
while nobody asks.
"""
