"""Game days: something is broken on purpose, and what the tool, people and simple rules made of it is kept."""
