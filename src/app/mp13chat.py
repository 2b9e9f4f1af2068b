"""`python -m src.app.mp13chat`: the same command as the installed `mp13chat`."""

from mp13.chat.cli.mp13chat import main

if __name__ == "__main__":
    main()
