"""Training of the networks: a generator, an encoder, and the network that reads attributes."""
