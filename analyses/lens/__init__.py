"""What can be read at each thought, layer by layer? Readable is not used."""
