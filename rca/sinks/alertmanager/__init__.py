"""Back to Alertmanager: an alert of our own, which its routes take wherever the team wants it."""
