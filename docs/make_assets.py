"""Render `docs/assets/report.png`, the picture of the evaluation report, with headless Chromium.

usage: python docs/make_assets.py [RUN]     (default: runs/demo/run, the run of `make demo`)

Chromium is found on the PATH; the environment variable CHROMIUM names another executable.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).parent / "assets"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1180, 1000  # CSS pixels: the findings, and the table and plot of errors


def render_report(page: Path, picture: Path) -> None:
    """Write a picture of the first screen of a report.

    Args:
      page: `report/index.html` of a run.
      picture: PNG file to write.

    Raises:
      FileNotFoundError: there is no such page, or no Chromium.
      subprocess.CalledProcessError: Chromium failed.
    """
    if not page.is_file():
        raise FileNotFoundError(f"{page} does not exist; run `make demo` first")
    candidates = [os.environ["CHROMIUM"]] if "CHROMIUM" in os.environ else BROWSERS
    browser = next(filter(None, map(shutil.which, candidates)), None)
    if browser is None:
        raise FileNotFoundError(f"none of {', '.join(candidates)} is installed; install Chromium")
    with tempfile.TemporaryDirectory() as folder:
        screenshot = Path(folder) / "screenshot.png"
        command = [
            browser,
            "--headless",
            "--no-sandbox",  # containers run as root, and the page is our own
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            f"--user-data-dir={folder}/profile",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={screenshot}",
            page.resolve().as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        picture.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(screenshot) as image:
            image.convert("RGB").save(picture, optimize=True)


def main() -> None:
    """Render the picture of the run named on the command line."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo/run")
    try:
        render_report(run / "report" / "index.html", ASSETS / "report.png")
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
