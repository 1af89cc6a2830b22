"""`python -m lifelong` is `lifelong`."""

from lifelong.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
