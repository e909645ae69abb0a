"""The command line. One module per command group; no logic of its own."""
