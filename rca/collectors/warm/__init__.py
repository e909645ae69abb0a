"""The embedded store of live telemetry: Parquet partitions by hour, one writer, readers in any process."""
