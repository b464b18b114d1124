"""How the machine is used: processes that share work."""
