"""How fast sampling is beside models of the same size, in one process and in turns."""
