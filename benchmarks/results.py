"""Writing of `benchmarks/results/NAME.json`, in the format that `README.md` describes."""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def table(caption: str, columns: list[str], rows: list[list[Any]], **others: Any) -> dict[str, Any]:
    """Return a table of a result, and print it."""
    print(f"\n{caption}\n" + "\t".join(columns))
    for row in rows:
        print("\t".join("" if cell is None else str(cell) for cell in row), flush=True)
    return {"caption": caption, "columns": columns, "rows": rows, **others}


def write_result(
    name: str, *, tables: list[dict[str, Any]], keep: str | None = None, **fields: Any
) -> None:
    """Write the result of a script in place of the previous one.

    Args:
      name: of the script.
      tables: as `table` returns them.
      keep: start of the captions of the previous tables that stay; None if none stays.
      **fields: `title`, `summary`, `simulated` and `notes`.
    """
    path = FOLDER / f"{name}.json"
    before = _read(path) if keep is not None and path.exists() else {"tables": []}
    origin = {key: before[key] for key in ("machine", "date") if key in before}
    kept = [origin | each for each in before["tables"] if each["caption"].startswith(keep or "")]
    result = {
        "machine": machine(),
        "date": f"{datetime.date.today():%Y-%m}",
        "command": " ".join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
        **fields,
    }
    _write(path, result | {"tables": tables + kept})


def add_tables(name: str, tables: list[dict[str, Any]]) -> None:
    """Add tables to the result of a script, which must exist, in place of those of their captions.

    Each says on which machine it was measured, and when. The rest of the result stays.
    """
    path = FOLDER / f"{name}.json"
    before = _read(path)
    origin = {"machine": machine(), "date": f"{datetime.date.today():%Y-%m}"}
    captions = {each["caption"] for each in tables}
    kept = [each for each in before["tables"] if each["caption"] not in captions]
    _write(path, before | {"tables": [each | origin for each in tables] + kept})


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, result: dict[str, Any]) -> None:
    text = json.dumps(result, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"\nWrote {path}")


def machine() -> str:
    """Return the processor, its usable cores, the memory and the GPUs of this machine."""
    import psutil

    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        processor = text.partition("model name")[2].partition(":")[2].partition("\n")[0].strip()
    except OSError:
        processor = ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return f"{cores} cores of {processor or platform.processor()}, {memory:.0f} GiB, {gpus()}"


def gpus() -> str:
    """Return the names of the GPUs of this machine."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"
    return ", ".join(name for name in names if name)


def laser_jnd(*arguments: str) -> None:
    """Run a command as a user does, and exit if it fails."""
    command = [sys.executable, "-m", "laser_dist.commands.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"Exit status {done.returncode}: {' '.join(arguments)}\n{done.stderr[-2000:]}")
