"""`python -m embedpipe` is `embedpipe`."""

from embedpipe.cli import main

main()
