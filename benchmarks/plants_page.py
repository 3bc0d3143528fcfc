"""Which figures does the page about plants show? Those of a finished validation, all of them.

    nfcot audit validate demo -o reports/validate
    python benchmarks/plants_page.py reports/validate/validate.json [PAGE] [--ship]

Rewrites what stands between `<!-- validate: NAME -->` and `<!-- /validate -->` in docs/plants.md,
or in another page, so that no figure there is typed by hand. Tables that the validation has no
rows for stay as they are. With `--ship` it also writes what audits of this checkpoint show of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import analyses.known
from analyses.known import FOLDER, shortened
from analyses.plants.tables import filled
from nfcot_model.files import canonical_json, read_json_object, write_text

PAGE = Path(__file__).parent.parent / "docs" / "plants.md"
SHIPPED = Path(analyses.known.__file__).parent / FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("validation", type=Path)
    parser.add_argument("page", type=Path, nargs="?", default=PAGE)
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args()
    result = read_json_object(options.validation)
    write_text(options.page, filled(options.page.read_text(), result))
    if options.ship:
        SHIPPED.mkdir(exist_ok=True)
        name = f"{result['settings']['checkpoint']}.json"
        write_text(SHIPPED / name, canonical_json(shortened(result)) + "\n")


if __name__ == "__main__":
    main()
