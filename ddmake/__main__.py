"""`python -m ddmake` is `ddmake`."""

from ddmake.cli.main import main

main()
