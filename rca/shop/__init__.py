"""A small shop that is really run: services, databases, monitoring and faults, for recording incidents and trying things out."""
