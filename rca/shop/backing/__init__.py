"""What the services lean on: real PostgreSQL and Redis, and two providers that somebody else would run."""
