"""`python -m src.app.mp13`: the same command as the installed `mp13`."""

from mp13.chat.cli.mp13 import main

if __name__ == "__main__":
    main()
