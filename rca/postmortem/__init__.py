"""Postmortems: what the store knows of an incident, as a document whose every computed sentence names its data."""
