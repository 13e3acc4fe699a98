"""`python -m ddmake` is `ddmake`."""

import os
import sys

if __name__ == "__main__":  # processes that a training spawns import this module, too
    if sys.path[:1] == [os.getcwd()]:  # put there by `-m`, and no place to look for modules in: it may be somebody else's project
        del sys.path[0]
    from ddmake.cli.main import main

    main()
