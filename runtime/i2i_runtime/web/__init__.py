"""The live page: server, access control, static files."""
