"""`python -m ddmake` is `ddmake`."""

from ddmake.cli.main import main

if __name__ == "__main__":  # processes that a training spawns import this module, too
    main()
