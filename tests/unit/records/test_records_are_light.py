import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).resolve().parents[3] / "records"


def test_no_heavy_import():
    modules = [f"records.{file.stem}" for file in ROOM.glob("*.py") if file.stem != "__init__"]
    assert len(modules) >= 9
    program = (
        f"import sys, {', '.join(modules)}\n"
        "heavy = {'torch', 'lightning', 'matplotlib', 'numpy', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOM.parent, check=True)
    assert done.stdout.strip() == "[]"
