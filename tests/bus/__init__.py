"""The bus, as far as no real one is needed."""
