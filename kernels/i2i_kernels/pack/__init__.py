"""The kernel pack: launches described without torch or triton, and PTX assembled ahead of time."""
