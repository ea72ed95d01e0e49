"""One file an architecture: its module name is the model's name, its ``build`` makes the model."""
