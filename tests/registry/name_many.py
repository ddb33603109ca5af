"""One worker of the naming test, as a process of its own: names the objects of several quadrants, some in vain.

Arguments: connection, number of the worker, quadrants, file of positions. Prints one JSON line per committed quadrant.
"""

import json
import sys

import numpy as np

from ztfds.registry import database as db
from ztfds.registry import objects
from ztfds.survey.errors import DatabaseDown


class Killed(Exception):
    """Stands for a worker that ends before it commits."""


def main() -> None:
    dsn, worker, quadrants, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    sky, rng = np.load(path), np.random.default_rng(worker)
    for quadrant in range(quadrants):
        seen = rng.permutation(len(sky))[: rng.integers(3, len(sky) + 1)]
        shift = rng.uniform(-0.3, 0.3, (len(seen), 2)) / 3600
        ra = (sky[seen, 0] + shift[:, 0] / np.cos(np.radians(sky[seen, 1]))) % 360
        dec, candid = sky[seen, 1] + shift[:, 1], [(worker * 100 + quadrant) * 1000 + int(k) for k in seen]
        # A re-run names the same detections again; a killed one leaves nothing.
        for fate in rng.choice(["killed", "committed", "committed"], rng.integers(1, 4)):
            try:
                with db.transaction(dsn) as cursor:
                    names = objects.associate(cursor, ra, dec, candid, 2458454.8)
                    if fate == "killed":
                        raise Killed
                sys.stdout.write(json.dumps(dict(zip(seen.tolist(), names, strict=True))) + "\n")
            except (Killed, DatabaseDown) as error:
                assert not isinstance(error, DatabaseDown), error


if __name__ == "__main__":
    main()
