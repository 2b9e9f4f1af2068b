"""`python -m src.app.config`: the same command as the installed `mp13config`."""

from mp13.chat.cli.config import main

if __name__ == "__main__":
    main()
