"""``python -m sensor`` runs the command ``sensor`` where it is not on the path."""

from sensor.cli import main

if __name__ == "__main__":
    main()
