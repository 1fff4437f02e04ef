"""Draw `docs/assets/report.png`: the first screen of the report of a demo, in a headless Chromium.

`python docs/make_picture.py [FOLDER]` takes the demo in FOLDER, or makes one. Needs the program `chromium`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).parent / "assets" / "report.png"
WIDTH, HEIGHT = 1280, 860  # pixels
LARGEST = 200_000  # bytes
BROWSER = [
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"),
    *("--blink-settings=preferredColorScheme=1", f"--window-size={WIDTH},{HEIGHT}"),  # 1: light
]


def main(folder: Path) -> None:
    """Draw the report of the demo in a folder, after the demo if there is none.

    Raises:
        SystemExit: The picture is too large for a page that is read on the way.
    """
    command = [sys.executable, "-m", "higgs_audio_trainer"]
    if not (folder / "higgs-demo").exists():
        subprocess.run([*command, "demo"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "report", "higgs-demo/run", "-o", "report.html"], cwd=folder, check=True)
    page = (folder / "report.html").resolve()
    subprocess.run([*BROWSER, f"--screenshot={PICTURE}", page.as_uri()], check=True, stderr=subprocess.DEVNULL)
    size = PICTURE.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{PICTURE}: expected at most {LARGEST:,} bytes, got {size:,}. Use a smaller HEIGHT.")
    print(f"{PICTURE}: {WIDTH} x {HEIGHT} pixels, {size:,} bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else empty))
