"""`python -m qsotn`: the command line, for who has no script of that name on the path."""

from qsotn.cli import main

main()
