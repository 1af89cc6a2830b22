"""`python -m lifelong` is `lifelong`."""


def main() -> int:
    """Run the command line; ctrl-C ends it quietly also while it is still being imported."""
    try:
        from lifelong.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
