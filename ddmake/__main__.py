"""`python -m ddmake` is `ddmake`."""

import os
import sys

if __name__ == "__main__":  # processes that a training spawns import this module, too
    if sys.path[:1] == [os.getcwd()]:  # put there by `-m`, and no place to look for modules in: it may be somebody else's project
        del sys.path[0]
    if sys.argv[1:] == ["worker"] and not os.isatty(0):  # jobs wait for it, and it reads nothing else of the command line
        from ddmake.cli.orders import main
    else:
        from ddmake.cli.main import main

    main()
