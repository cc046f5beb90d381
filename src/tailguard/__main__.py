"""``python -m tailguard``: the command line, where the script is not on the path."""

from tailguard.cli import main

if __name__ == "__main__":
    main()
