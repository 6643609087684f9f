"""Generate the parts of the documentation that are stored in the repository.

python docs/generate.py cards                 feature tables of the dataset cards
python docs/generate.py report runs/demo/run  picture of a run's report; needs Chromium
"""

import argparse
import importlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
DATASETS = ("videoset_jnd", "mcl_jci_jnd")
REPORT_PICTURE = ROOT / "docs" / "assets" / "report.png"
WINDOW_PX = (1180, 1000)
_TABLE = re.compile(r"(?<=<!-- features -->\n).*?(?=<!-- /features -->)", re.S)


def card_path(dataset: str) -> Path:
    """Return the path of a dataset's card."""
    return ROOT / "tfds_builders" / dataset / "README.md"


def with_features(card: str, table: str) -> str:
    """Return a card with another feature table."""
    return _TABLE.sub(lambda _: f"\n{table}\n", card, count=1)


def feature_table(dataset: str) -> str:
    """Return the features of a dataset's default configuration as a Markdown table."""
    module = importlib.import_module(f"tfds_builders.{dataset}.{dataset}_dataset_builder")
    config = next(each for each in module.Builder.BUILDER_CONFIGS if each.name != "synthetic")
    from tfds_builders.jnd_features import pair_features

    features = pair_features(config.pairs, module.Builder.SCALE)
    lines = ["| Feature | Type | Shape | Meaning |", "|---|---|---|---|"]
    for name, feature in features.items():
        cells = [f"`{name}`", _type(feature), _shape(feature), _meaning(feature)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _type(feature: Any) -> str:
    kind = type(feature).__name__
    dtype = getattr(feature, "np_dtype", None)
    name = "string" if dtype is None or np.dtype(dtype) == object else np.dtype(dtype).name
    return f"{kind}, {name}" if kind in ("Image", "Sequence") else name


def _shape(feature: Any) -> str:
    shape = ", ".join("?" if size is None else str(size) for size in feature.shape)
    return f"[{shape}]" if shape else ""


def _meaning(feature: Any) -> str:
    return feature.doc.desc or ""


def write_cards() -> None:
    """Update the feature tables of all cards."""
    for dataset in DATASETS:
        path = card_path(dataset)
        path.write_text(with_features(path.read_text(), feature_table(dataset)))


def take_picture(run: Path) -> None:
    """Store a picture of the top of a run's report.

    Raises:
      SystemExit: the run has no report, or Chromium is not installed.
    """
    report = run / "report" / "index.html"
    if not report.is_file():
        raise SystemExit(f"{report} does not exist: run `laser-jnd evaluate` first.")
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("Chromium is not installed.")
    with tempfile.TemporaryDirectory() as profile:
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={WINDOW_PX[0]},{WINDOW_PX[1]}",
            f"--screenshot={REPORT_PICTURE}",
        ]
        command = [browser, *flags, report.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Generate stored parts of the documentation.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cards", help="update the feature tables of the dataset cards")
    report = commands.add_parser("report", help="take a picture of a run's report")
    report.add_argument("run", type=Path, metavar="RUN", help="directory of an evaluated run")
    arguments = parser.parse_args()
    if arguments.command == "cards":
        write_cards()
    else:
        take_picture(arguments.run)


if __name__ == "__main__":
    main()
