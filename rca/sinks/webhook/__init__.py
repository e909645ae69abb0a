"""A signed webhook: the whole notice as JSON, for programs."""
