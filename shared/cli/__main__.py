"""`python -m shared.cli` is `tidemark`."""

from shared.cli.app import main

if __name__ == "__main__":
    main()
