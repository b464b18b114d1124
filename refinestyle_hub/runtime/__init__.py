"""How the machine is used: devices, precision, memory, compiling, optimisers, and processes that share work."""
