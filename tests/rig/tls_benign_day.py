# SPDX-License-Identifier: Apache-2.0
"""``python -m rig.tls_benign_day COUNT OPTION...``: a benign day under ``agentwall run OPTION...``.

Prints what came of it as JSON, for bench/.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from rig.lab import lab
from rig.tls_sandbox import benign_day


def main() -> None:
    """Spend the day."""
    count, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="agentwall-benign-") as directory, lab() as made:
        day = benign_day(made, Path(directory), int(count), options=options)
    sessions, read = day.sessions
    end = next(each["detail"] for each in day.events if each.get("state") == "finished")
    told = {
        "asked": sum(day.load.asked.values()),
        "answered": sum(day.load.answered.values()),
        "sessions": sessions,
        "read": read,
        "untold": end.get("tls_untold", 0),
        "matches": day.matches,
        "took_s": day.took_s,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
