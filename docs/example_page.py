"""The directive ``example NAME``: the figure that examples/NAME.py draws, what it prints, its code.

The example runs when the site is built, in a process of its own. One that fails is a warning.
"""

import os
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


class Example(SphinxDirective):
    """See above."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Run the example; its page's nodes."""
        script = EXAMPLES / f"{self.arguments[0]}.py"
        self.env.note_dependency(str(script))
        # All examples share one folder, and with it the model that they train.
        folder = Path(self.env.app.outdir).parent / "examples"
        folder.mkdir(parents=True, exist_ok=True)
        self._python(folder, "-c", "from trained_model import model_path; model_path()")
        printed = self._python(folder, "-W", "ignore", str(script))
        code = script.read_text(encoding="utf-8")
        here = Path(self.env.doc2path(self.env.docname)).parent
        return [
            nodes.image(uri=os.path.relpath(folder / f"{script.stem}.png", here), alt=script.stem),
            nodes.literal_block(printed, printed, language="text"),
            nodes.literal_block(code, code, language="python"),
        ]

    def _python(self, folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(EXAMPLES), "MPLBACKEND": "Agg"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise self.error(f"{arguments[-1]} failed:\n{done.stderr}")
        return done.stdout


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("example", Example)
    return {"parallel_read_safe": False}
