"""A framework in a process of its own: which are installed, on what device, how it is started and spoken to."""
