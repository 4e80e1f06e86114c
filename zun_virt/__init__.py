"""Nova compute driver that makes sandboxes: places in which containers run."""
