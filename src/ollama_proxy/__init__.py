"""ollama-proxy: sends each inference request of one machine to the backend that suits it.

It stands in front of Ollama and OpenAI-compatible servers (on the NPU, the GPUs and the CPU of a
laptop, say), chooses one for each request by time and watts, forwards it, and streams the answer
back. One idea carries the code: **deciding is synchronous and returns what should happen; doing is
asynchronous and decides nothing.**

The rooms, and who may import whom (`tools/layers` checks it):

    policy     what is decided: values in, values out            attrs and values only
    engine     who works on what, until when: tasks, deadlines   policy, trio, the Backend protocol
    inbound    doors: HTTP, WebSocket, Wyoming in, jobs out      engine, policy, bus
    backends   one file a dialect: jobs in, HTTP out             policy, trio
    sensors    the machine's state: files, buses in, facts out   policy, trio, bus
    bus        one connection to a message bus                   nothing of ours
    discovery  who else is there: DNS, Kubernetes, Avahi         policy, trio, bus
    metrics    what Prometheus is told                           engine, policy
    notifier   notices on the desktop                            policy, trio, bus
    identity   what it is called among others                    nothing of ours
    service_manager, journal   what systemd is told              nothing of ours
    starter    what is seen of a machine, as a configuration     policy, sensors
    desktop    what is asked of the desktop while requests run   policy, trio, bus, names of sensors
    keyring    API keys in files and variables, new ones         policy
    pairing    two routers come to trust each other by a code    config, pinned
    pinned     TLS that trusts just the certificates it is given nothing of ours
    pairs      who is paired, at the door and as backends        pairing, inbound, stations
    tables     TOML read into classes, every fault named         nothing of ours
    simulate   the engine in virtual time, modelled backends     engine, policy, config, Backend protocol
    client     commands that ask a running router; say is one    config, tables
    senses     builds the senses, holds their nursery            sensors, notifier, desktop, engine, policy
    decisions  the decision log, and its replay                  policy, config
    stations   the backends that are open                        backends, engine, config
    scouts     has who is found be a backend                    discovery, stations, config
    rooms      builds all the others out of the configuration    everything but simulate
    serve      holds the nursery tree that they live in          rooms, stations; only cli imports it

Start order is nesting, so shutdown order is nesting:

    trio.run
    └─ senses         closes last     a task a sensor, the system's bus, climate, notices
       └─ workers     closes second   pump, alarms, and per backend: worker x slots, health,
          │                           the embedded backend's process
          └─ doors    closes first    signals, the front door, the gRPC door, the door on the bus

A fact's way:

    file or bus ─ sensor, on a thread of its own ─► findings ─► climate.publish; each look grades the
    heat, lets the mode follow, and steers the dispatcher: the next choice is made on it. Draws go to
    the meters, which share them among the attempts that were there.

A request's way:

    socket ─ front: the first line of each request
      inference POST ─► lane ─┐          everything else ─► Hypercorn ─► Quart app
                              ▼
      job ─► dispatcher.submit (sync): route.choose → refusal, or a place in line; a critical job
                              that finds every slot taken has best effort put back
      line → attempt ─► crew: a free worker's channel ─► worker, in the attempt's scope:
                                           backend.exchange; an overdue one may get a rival
      head + first chunk ─► attempt ─► lane ─► socket; the rest: the pump, or the sink where bytes
                                           must be translated (no queue between)
      end, error, deadline, client gone, put back ─► dispatcher.finished ─► learn; next in line; who
                                           waits elsewhere is asked whether here is better now
"""

__version__ = "0.1.0"
