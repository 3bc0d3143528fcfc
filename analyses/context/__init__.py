"""Which text of the prompt drove which thought? Likelihood with a span against without it."""
