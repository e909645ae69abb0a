"""`python -m rca` is the `rca` command."""

from rca.cli.main import main

if __name__ == "__main__":
    main()
