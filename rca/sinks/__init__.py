"""Where the answer goes: Slack, PagerDuty, a signed webhook, Alertmanager, and through apprise nearly everything else.

A worker hands a `Notice` (notice.py) to every sink of the configuration (destinations.py). What a message says, and what of it is
cut first, is decided once (message.py); how it is marked up, sent and tried again, too (markup.py, http.py, retry.py). A sink is
a package of three files: its settings, what it sends (pure), and the class that sends it.
"""
