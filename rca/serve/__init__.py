"""`rca serve`: alerts come in over HTTP, rankings go out as messages, answers of an API and pages."""
