"""The program ``gflowdial``, also ``python -m gflowdial``."""

import sys


def main() -> int:
    """Run the command line of dialogue tasks; 0 when it is done."""
    try:
        from gflowdial.dialogue.cli import main as run
    except ImportError as error:
        print(f"error: {error}; the program needs the extra `dialogue`: pip install 'gflowdial[dialogue]'", file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
