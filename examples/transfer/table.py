"""Write result.json and the table in README.md from the comparison of this folder.

python examples/transfer/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"


def main() -> None:
    """Read data/comparison.json; write what the README shows."""
    comparison = json.loads((HERE / "data" / "comparison.json").read_text(encoding="utf-8"))
    result = {name: task["transfer"] for name, task in comparison["tasks"].items()}
    text = json.dumps(result, indent=1, ensure_ascii=False)
    (HERE / "result.json").write_text(text + "\n", encoding="utf-8")
    page = HERE / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(before + BEGIN + table(result["digit"]) + END + rest.partition(END)[2], encoding="utf-8")


def table(told: dict[str, Any]) -> str:
    """One row an arm, one column a number of labels; the best in bold, what ties with it in italics."""
    shots = list(dict.fromkeys(row["k_shot"] for row in told["arms"]))
    names = list(dict.fromkeys(row["name"] for row in told["arms"]))
    cells = {(row["name"], row["k_shot"]): cell(row, told["winners"]) for row in told["arms"]}
    head = ["arm", *("all labels" if shot == "all" else f"{shot} a class" for shot in shots)]
    lines = [head, ["---"] * len(head)]
    lines += [[name, *(cells.get((name, shot), "–") for shot in shots)] for name in names]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(row: dict[str, Any], winners: list[dict[str, Any]]) -> str:
    """Percent with its interval."""
    shown = f"{100 * row['value']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"
    winner = next(one for one in winners if one["k_shot"] == row["k_shot"])
    if row["arm"] == winner["arm"]:
        return f"**{shown}**"
    return f"*{shown}*" if row["arm"] in winner["ties"] else shown


if __name__ == "__main__":
    main()
