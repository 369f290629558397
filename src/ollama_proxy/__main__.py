"""`python -m ollama_proxy` is the command `ollama-proxy`."""

import sys

from ollama_proxy.cli import main

sys.exit(main())
