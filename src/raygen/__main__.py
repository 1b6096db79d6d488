"""``python -m raygen``, which does what the command ``raygen`` does."""

from raygen.cli import main

if __name__ == "__main__":
    main()
