"""The shop's services: one small module each, on a kit that gives them HTTP, PostgreSQL, Redis, telemetry and faults.

`python -m rca.shop.services WORKLOAD` runs one pod. It reads POD_NAME, NODE_NAME, SHOP_POD_DIR, SHOP_PORT, SHOP_ADMIN_PORT,
OTEL_EXPORTER_OTLP_ENDPOINT (OTLP over HTTP, `http://host:port`), OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES. In its folder
stand `hosts` (lines `address:port name`, read again every second), optionally `release.json` (read at start) and
`volume.json` ({"capacity_bytes", "bytes_per_second", "ms_per_write"}, read again every second), and `volume/`.
"""
