"""`python -m pullback.cli` is the command line too."""

from pullback.cli import main

main()
