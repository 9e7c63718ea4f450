"""`python -m tfrunner` is the `tfrunner` command."""

from tfrunner.cli import main

if __name__ == "__main__":
    main()
