"""`python -m leyden`."""

from leyden.cli.main import main

if __name__ == "__main__":
    main()
