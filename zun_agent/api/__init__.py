"""The Zun v1 API: WSGI in front of the manager, and nothing of Docker or SQL in it."""
