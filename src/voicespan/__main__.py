"""`python -m voicespan`: the command line."""

from voicespan.cli import main

main(prog_name="voicespan")
