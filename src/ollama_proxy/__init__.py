"""ollama-proxy: sends each inference request of one machine to the backend that suits it.

It stands in front of Ollama and OpenAI-compatible servers (on the NPU, the GPUs and the CPU of a
laptop, say), chooses one for each request by time and watts, forwards it, and streams the answer
back. One idea carries the code: **deciding is synchronous and returns what should happen; doing is
asynchronous and decides nothing.**

The rooms, and who may import whom (`tools/layers` checks it):

    policy     what is decided: values in, values out            attrs and values only
    engine     who works on what, until when: tasks, deadlines   policy, trio, the Backend protocol
    inbound    doors: HTTP in, jobs out, answers back            engine, policy
    backends   one file a dialect: jobs in, HTTP out             policy, trio
    tables     TOML read into classes, every fault named         nothing of ours
    simulate   the engine in virtual time, modelled backends     engine, policy, config, Backend protocol
    serve      builds all of it, holds the nursery tree          everything but simulate; nobody imports it

Start order is nesting, so shutdown order is nesting:

    trio.run
    └─ workers        closes second   pump, deadlines, and per backend: worker x slots, health,
       │                              the embedded backend's process
       └─ doors       closes first    signals, the front door

A request's way:

    socket ─ front: the first line of each request
      inference POST ─► lane ─┐          everything else ─► Hypercorn ─► Quart app
                              ▼
      job ─► dispatcher.submit (sync): route.choose → refusal, or a place in line
      line → a free worker's channel ─► worker, in the job's scope: backend.exchange
      head + first chunk ─► job ─► lane ─► socket; the rest: the pump, or the sink where bytes
                                           must be translated (no queue between)
      end, error, deadline, client gone ─► dispatcher.finished ─► next in line
"""

__version__ = "0.1.0"
