"""Container agent: starts users' containers inside sandboxes, and serves the Zun v1 API."""
