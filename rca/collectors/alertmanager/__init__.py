"""Active alerts from Alertmanager. Past ones are in Prometheus' own series `ALERTS` (rca.collectors.prometheus.alerts)."""
