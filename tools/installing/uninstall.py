"""Removes what tools/install put in place. Called by tools/uninstall."""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from installing import session
from installing.manifest import Manifest
from installing.places import Places


def main() -> int:
    """Run the command."""
    flags = argparse.ArgumentParser(prog="tools/uninstall", description=__doc__)
    flags.add_argument("--prefix", type=Path, metavar="DIR", help="where all of it is below DIR")
    flags.add_argument("--dry-run", action="store_true", help="say what would be done")
    flags.add_argument("--purge", action="store_true", help="remove the configuration, too")
    given = flags.parse_args()
    places = Places.below(given.prefix) if given.prefix else Places.of_user(os.environ)
    manifest = Manifest.read(places, dry=given.dry_run)
    if manifest.is_empty:
        print(f"nothing is installed ({places.manifest} is not there)")
    is_live = not given.prefix and not given.dry_run and not manifest.is_empty
    if is_live:
        session.let_go()
    if given.purge:
        manifest.remove(places.configuration)
        if not given.dry_run:
            with contextlib.suppress(OSError):  # something else of the user's lies in it
                places.configuration.parent.rmdir()
    manifest.remove_all()
    if is_live:
        session.forget()
    if os.path.lexists(places.configuration) and not given.dry_run:
        print(f"{places.configuration} is left: it is yours (--purge removes it)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
