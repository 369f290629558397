"""Pairing: two routers come to trust each other by a short code that a person carries from one to the other.

What comes of it: each knows the other's certificate (`book`, a file), and nothing else of the world has to
vouch for it. A paired router speaks to the other's *door for paired routers* (`inbound.paired`) under TLS in
which both show their certificate (`pinned`); so each is a backend of the other.

    code         what is shown and typed, and how often it may be tried     pure
    card         what one router tells the other of itself                  pure
    exchange     the conversation, as lines in and lines out                pure, but for random numbers
    certificate  this router's, and its key, made once                    a file
    book         who this router is paired with                             a file
    files        that are their owner's alone                               files
    talk         the conversation on sockets: who offers, who asks          Trio
    command      `ollama-proxy pair`

**The code is a password of 40 bits, so it must not be guessed nor computed.** It goes into a
password-authenticated key exchange, SPAKE2 (the package `spake2`, as in magic-wormhole): who listens, or
sits in the middle, learns nothing by which a guess could be checked afterwards, and each conversation is
one guess. Three wrong ones make the code void, so does the first right one, so do five minutes. Under the
key that comes of it each side proves that it knows the code and what both certificates are; whoever swaps
a certificate on the way does not know the key.

Choices not taken:

- *The code, hashed with both certificates, as a proof*: who sits in the middle tries all 2**40 codes
  against the hash at home, in minutes, and has the rest of the five.
- *Comparing fingerprints by eye*, as SSH does: 64 digits are not compared, they are waved through.
- *TLS with the code as pre-shared key*: Python has it from 3.13 on, and it is open to the same computing.
- *An API key for each side*: two more secrets in files, on a door that others can speak to. The certificate
  is there already, its key never leaves its machine, and who has none is not heard at all.
- *An exchange within the running router*, on a route that opens for a while: it would need to write files,
  which its service may not (`ProtectHome=read-only`), and strangers would reach the process that serves.
  So the command listens itself, on a port of its own, and the router only reads what it has written.
- *Encrypting the conversation*: what is said in it is a certificate, a name and a port, no secret; a
  passer-by would see as much of the door itself.

The order of writing: who offers writes first, then says so, and only then writes who asks. If the last
word is lost, one side knows the other, which harms nobody: it is refused there until both pair anew.
"""
