"""What the stream package imports."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

from cifarctl import stream


def test_importing_the_package_does_not_import_torch() -> None:
    names = [module.name for module in pkgutil.iter_modules(stream.__path__)]
    assert {"clients", "codecs", "label_join", "sink", "source"} <= set(names)
    program = "import sys\n" + "".join(f"import cifarctl.stream.{name}\n" for name in names)
    program += "raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
