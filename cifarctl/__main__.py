"""``python -m cifarctl`` is the ``cifarctl`` command."""

from cifarctl.cli import main

if __name__ == "__main__":
    main()
