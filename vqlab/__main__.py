"""``python -m vqlab`` is the same as the ``vqlab`` command."""

from vqlab.cli.main import main

if __name__ == "__main__":
    main()
